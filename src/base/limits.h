/* Every compile-time maximum. A size from a file, a flag or the network is checked against one of these
 * before it is used. */
#ifndef SPEY_BASE_LIMITS_H
#define SPEY_BASE_LIMITS_H

enum {
    SPEY_ERROR_BYTES_MAX = 1024,
    SPEY_NAME_BYTES_MAX = 256, /* tensor and weight names, with the final 0 */
    SPEY_PATH_BYTES_MAX = 4096,
    SPEY_DIMS_MAX = 4, /* dimensions of a stored tensor */
    SPEY_THREADS_MAX = 512,
    SPEY_LAYERS_MAX = 1024,
    SPEY_HEADS_MAX = 1024,
    SPEY_HEAD_DIM_MAX = 1024,
    SPEY_HIDDEN_MAX = 1 << 18,
    SPEY_VOCAB_MAX = 1 << 22,
    SPEY_POSITIONS_MAX = 1 << 27,
    SPEY_EXPERTS_MAX = 1024,
    SPEY_RELATIVE_DISTANCE_MAX = 1024, /* from which on distances share one bias */
    SPEY_CACHE_GROUPS_MAX = 16,
    SPEY_CONV_WIDTH_MAX = 16,          /* taps of a causal convolution */
    SPEY_SCAN_STATES_MAX = 1024,       /* of one column of a selective scan */
    SPEY_STATE_ELEMENTS_MAX = 1 << 30, /* of one layer of a state group */
    SPEY_JSON_BYTES_MAX = 1 << 28,     /* config.json, tokenizer.json, index files */
    SPEY_JSON_DEPTH_MAX = 64,
    SPEY_SAFETENSORS_HEADER_MAX = 100 << 20,
    SPEY_TENSORS_MAX = 1 << 20, /* tensors of one checkpoint */
    SPEY_SHARDS_MAX = 4096,
    SPEY_GRAPH_NODES_MAX = 1 << 17,
    SPEY_GRAPH_TEXT_MAX = 1 << 26,
    SPEY_ENGINE_SECTIONS_MAX = 256,
    SPEY_TEMPLATE_BYTES_MAX = 1 << 20,    /* chat template source */
    SPEY_TEMPLATE_STEPS_MAX = 1 << 22,    /* statements and loop turns of one rendering */
    SPEY_TEMPLATE_OUTPUT_MAX = 16 << 20,  /* bytes of one rendering */
    SPEY_TEMPLATE_MEMORY_MAX = 256 << 20, /* bytes of all values of one rendering */
    SPEY_TEMPLATE_NESTING_MAX = 100,      /* brackets and statements of a source */
    SPEY_TEMPLATE_DEPTH_MAX = 1000,       /* nested evaluations and calls */
    SPEY_GUIDE_TEXT_MAX = 1 << 18,        /* bytes of a regex, a grammar or a schema */
    SPEY_GUIDE_NESTING_MAX = 128,         /* of brackets in it */
    SPEY_GUIDE_EXPRS_MAX = 1 << 17,
    SPEY_GUIDE_RULES_MAX = 1 << 14,
    SPEY_GUIDE_REPEAT_MAX = 1 << 16,
    SPEY_GUIDE_NODES_MAX = 1 << 18,     /* of the automaton */
    SPEY_GUIDE_SETS_MAX = 1 << 12,      /* different sets of bytes */
    SPEY_GUIDE_PLACES_MAX = 1 << 10,    /* where the automaton may be at once */
    SPEY_GUIDE_STATES_MAX = 1 << 13,    /* kept while a guide is in use */
    SPEY_GUIDE_WORK_MAX = 20 << 20,     /* steps of compiling; some tens of milliseconds */
    SPEY_SCHEMA_WORK_MAX = 1 << 20,     /* comparisons and copies while a JSON schema is read */
    SPEY_GUIDE_FOLDS_MAX = 24,          /* of a vocabulary: some megabytes each */
    SPEY_GUIDE_MASK_BYTES = 2 << 20,    /* kept masks of a guide */
    SPEY_GUIDE_TABLE_BYTES = 512 << 20, /* of a context's guides, unless it says */
    SPEY_STOP_STRINGS_MAX = 32,
    SPEY_STOP_BYTES_MAX = 1024, /* length of one stop string */
    SPEY_BAD_WORDS_MAX = 1024,
    SPEY_BEAMS_MAX = 32,
    SPEY_BEAM_CANDIDATES_MAX = 16,  /* per beam and step */
    SPEY_CHOICES_MAX = 256,         /* sequences of one request */
    SPEY_RETENTION_RANGES_MAX = 64, /* of one request */
    SPEY_LOGPROBS_MAX = 64,         /* top log-probabilities per token */
};

#endif
