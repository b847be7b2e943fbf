#include "cli/sampling_flags.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "runtime/engine_handle.h"

/* No value that the option may have. */
enum { FORCED_EOS_OF_MODEL = -2 };

void spey_sampling_flags_init(spey_sampling_flags *flags)
{
    *flags = (spey_sampling_flags){ .max_tokens = 128,
                                    .min_tokens = -1,
                                    .no_repeat_ngram = -1,
                                    .forced_eos = FORCED_EOS_OF_MODEL,
                                    .n = 1,
                                    .beams = 1,
                                    .beam_groups = 1,
                                    .length_penalty = 1,
                                    .temperature = -1,
                                    .top_k = -1,
                                    .top_p = -1,
                                    .min_p = -1,
                                    .typical_p = -1,
                                    .repetition_penalty = -1,
                                    .logprobs = -1,
                                    .prompt_logprobs = -1 };
}

/* "1,2,3" into the arena. */
static spey_status parse_ids(const char *what, const char *text, spey_arena *arena,
                             spey_id_list *out)
{
    int32_t *ids;
    size_t n;
    SPEY_TRY(spey_args_ids(what, text, &ids, &n));
    int32_t *copy = spey_arena_array(arena, n, sizeof *copy);
    if (copy) memcpy(copy, ids, n * sizeof *copy);
    spey_free(ids);
    *out = (spey_id_list){ copy, n };
    return copy ? SPEY_OK : SPEY_NOMEM;
}

static spey_status encode_word(const spey_engine *engine, const char *word, spey_arena *arena,
                               spey_id_list *out)
{
    size_t n;
    SPEY_TRY(spey_engine_tokenize(engine, word, strlen(word), false, NULL, 0, &n));
    int32_t *ids = spey_arena_array(arena, n, sizeof *ids);
    if (!ids) return SPEY_NOMEM;
    *out = (spey_id_list){ ids, n };
    return spey_engine_tokenize(engine, word, strlen(word), false, ids, n, &n);
}

static size_t count_words(const spey_info_ids *words)
{
    size_t n = 0;
    for (int32_t i = 0; i < words->n; i++)
        n += words->ids[i] < 0;
    return n;
}

/* Those of the model's generation_config: sequences with a -1 behind each. */
static void add_words_of_model(const spey_info_ids *words, spey_id_list *lists, size_t *n)
{
    for (int32_t i = 0, begin = 0; i < words->n; i++) {
        if (words->ids[i] >= 0) continue;
        lists[(*n)++] = (spey_id_list){ words->ids + begin, (size_t)(i - begin) };
        begin = i + 1;
    }
}

/* Vocabularies spell a word that follows a space in another way. */
spey_status spey_bad_word_add(const spey_engine *engine, const char *word, spey_arena *arena,
                              spey_id_list *lists, size_t *n)
{
    if (!*word) return SPEY_FAIL(SPEY_INVALID, "a bad word is empty");
    SPEY_TRY(encode_word(engine, word, arena, &lists[(*n)++]));
    if (word[0] == ' ') return SPEY_OK;
    char *spaced = spey_arena_alloc(arena, strlen(word) + 2);
    if (!spaced) return SPEY_NOMEM;
    spaced[0] = ' ';
    memcpy(spaced + 1, word, strlen(word) + 1);
    return encode_word(engine, spaced, arena, &lists[(*n)++]);
}

static spey_status parse_bad_words(const spey_sampling_flags *f, const spey_engine *engine,
                                   spey_arena *arena, spey_sampling *out)
{
    const spey_info_ids *of_model = &spey_engine_file_info(engine->file)->bad_words;
    size_t n = 2 * f->bad_words.n + f->bad_ids.n + count_words(of_model);
    spey_id_list *lists = spey_arena_array(arena, n, sizeof *lists);
    if (!lists) return SPEY_NOMEM;
    add_words_of_model(of_model, lists, &out->n_bad_words);
    for (size_t i = 0; i < f->bad_words.n; i++)
        SPEY_TRY_CTX(
            spey_bad_word_add(engine, f->bad_words.items[i], arena, lists, &out->n_bad_words),
            "--bad-words");
    for (size_t i = 0; i < f->bad_ids.n; i++)
        SPEY_TRY(parse_ids("--bad-ids", f->bad_ids.items[i], arena, &lists[out->n_bad_words++]));
    out->bad_words = lists;
    return SPEY_OK;
}

/* All ids of a repeated option, behind those of the model. */
static spey_status gather_ids(const char *what, const spey_text_list *list,
                              const spey_info_ids *of_model, spey_arena *arena, spey_id_list *out)
{
    if (of_model) *out = (spey_id_list){ of_model->ids, (size_t)of_model->n };
    for (size_t i = 0; i < list->n; i++) {
        spey_id_list ids;
        SPEY_TRY(parse_ids(what, list->items[i], arena, &ids));
        int32_t *all = spey_arena_array(arena, out->n + ids.n, sizeof *all);
        if (!all) return SPEY_NOMEM;
        if (out->n) memcpy(all, out->ids, out->n * sizeof *all);
        memcpy(all + out->n, ids.ids, ids.n * sizeof *all);
        *out = (spey_id_list){ all, out->n + ids.n };
    }
    return SPEY_OK;
}

static spey_status parse_id_lists(const spey_sampling_flags *f, const spey_model_info *info,
                                  spey_arena *arena, spey_sampling *out)
{
    spey_id_list stop = { 0 }, suppress = { 0 }, begin = { 0 };
    SPEY_TRY(gather_ids("--stop-ids", &f->stop_ids, NULL, arena, &stop));
    SPEY_TRY(gather_ids("--suppress-ids", &f->suppress_ids, &info->suppress, arena, &suppress));
    SPEY_TRY(gather_ids("--begin-suppress-ids", &f->begin_suppress_ids, &info->begin_suppress,
                        arena, &begin));
    out->stop_ids = stop.ids;
    out->n_stop_ids = stop.n;
    out->suppress_ids = suppress.ids;
    out->n_suppress_ids = suppress.n;
    out->begin_suppress_ids = begin.ids;
    out->n_begin_suppress_ids = begin.n;
    return SPEY_OK;
}

/* What the decoder begins with counts in min_length. */
static int64_t least_output(const spey_model_info *info)
{
    int64_t begin = info->forced_bos_id < 0 ? 1 : 2, by_length = info->min_length - begin;
    return by_length > info->min_new_tokens ? by_length : info->min_new_tokens;
}

static void choose_rules(const spey_sampling_flags *f, const spey_model_info *info,
                         spey_sampling *out)
{
    bool model_ends = f->forced_eos == FORCED_EOS_OF_MODEL && !f->ignore_eos;
    out->min_tokens = (int32_t)(f->min_tokens >= 0 ? f->min_tokens : least_output(info));
    out->no_repeat_ngram =
        (int32_t)(f->no_repeat_ngram >= 0 ? f->no_repeat_ngram : info->no_repeat_ngram);
    if (model_ends) out->forced_eos_id = info->forced_eos_id;
    if (f->forced_eos > FORCED_EOS_OF_MODEL) out->forced_eos_id = (int32_t)f->forced_eos;
}

static spey_status parse_bias(const spey_text_list *list, spey_arena *arena, spey_sampling *out)
{
    spey_logit_bias *biases = spey_arena_array(arena, list->n, sizeof *biases);
    if (!biases) return SPEY_NOMEM;
    for (size_t i = 0; i < list->n; i++) {
        const char *text = list->items[i];
        char *end;
        long id = strtol(text, &end, 10);
        bool good = end != text && *end == '=' && id >= 0 && id <= INT32_MAX;
        const char *number = good ? end + 1 : "";
        double bias = strtod(number, &end);
        if (!good || end == number || *end || bias != bias)
            return SPEY_FAIL(SPEY_INVALID,
                             "--logit-bias is \"%.40s\", expected ID=NUMBER such as 265=-5", text);
        biases[i] = (spey_logit_bias){ (int32_t)id, (float)bias };
    }
    out->logit_bias = biases;
    out->n_logit_bias = list->n;
    return SPEY_OK;
}

static spey_status parse_beams(const spey_sampling_flags *f, spey_sampling *out)
{
    const char *when = f->early_stopping ? f->early_stopping : "false";
    out->n = (int32_t)f->n;
    out->best_of = (int32_t)f->best_of;
    out->beams = (int32_t)f->beams;
    out->beam_groups = (int32_t)f->beam_groups;
    out->length_penalty = f->length_penalty;
    out->diversity_penalty = f->diversity_penalty;
    if (!strcmp(when, "true"))
        out->early_stopping = SPEY_EARLY_STOPPING_ON;
    else if (!strcmp(when, "never"))
        out->early_stopping = SPEY_EARLY_STOPPING_NEVER;
    else if (strcmp(when, "false") != 0)
        return SPEY_FAIL(SPEY_INVALID,
                         "--early-stopping is \"%.40s\", expected true, false or never", when);
    if (f->beams > 1 && f->temperature < 0) out->temperature = 0; /* whatever the model suggests */
    return SPEY_OK;
}

/* The contents of the file of that name, or the text itself. */
static spey_status read_guide(const char *text, spey_arena *arena, const char **out)
{
    *out = text;
    if (!spey_file_exists(text)) return SPEY_OK;
    spey_strbuf data = { 0 };
    spey_status status = spey_file_read(text, SPEY_GUIDE_TEXT_MAX, &data);
    if (!status) {
        *out = spey_arena_strndup(arena, data.data ? data.data : "", data.len);
        status = *out ? SPEY_OK : SPEY_NOMEM;
    }
    spey_strbuf_deinit(&data);
    return status;
}

static spey_status parse_guide(const spey_sampling_flags *f, spey_arena *arena, spey_sampling *out)
{
    if ((f->json_schema != NULL) + (f->regex != NULL) + (f->grammar != NULL) > 1)
        return SPEY_FAIL(SPEY_INVALID, "only one of --json-schema, --regex and --grammar");
    out->guide_text = f->regex;
    if (f->regex) out->guide = SPEY_GUIDE_REGEX;
    if (f->grammar) {
        out->guide = SPEY_GUIDE_GRAMMAR;
        return read_guide(f->grammar, arena, &out->guide_text);
    }
    if (!f->json_schema) return SPEY_OK;
    out->guide = SPEY_GUIDE_JSON_SCHEMA;
    return read_guide(f->json_schema, arena, &out->guide_text);
}

static double choose(double flag, double model, double off, bool use_model)
{
    return flag >= 0 ? flag : use_model ? model : off;
}

spey_status spey_sampling_from_flags(const spey_sampling_flags *f, const spey_engine *engine,
                                     spey_arena *arena, spey_sampling *out)
{
    const spey_model_info *info = spey_engine_file_info(engine->file);
    bool sample = info->do_sample;
    spey_sampling_init(out);
    out->max_tokens = (int32_t)f->max_tokens;
    choose_rules(f, info, out);
    out->temperature = choose(f->temperature, info->temperature, 0, sample);
    out->top_k = (int32_t)choose((double)f->top_k, (double)info->top_k, 0, sample);
    out->top_p = choose(f->top_p, info->top_p, 1, sample);
    out->min_p = choose(f->min_p, info->min_p, 0, sample);
    out->typical_p = choose(f->typical_p, info->typical_p, 1, sample);
    out->repetition_penalty = choose(f->repetition_penalty, info->repetition_penalty, 1, true);
    out->presence_penalty = f->presence_penalty;
    out->frequency_penalty = f->frequency_penalty;
    out->seed = (uint64_t)f->seed;
    out->ignore_eos = f->ignore_eos;
    out->logprobs = (int32_t)f->logprobs;
    out->prompt_logprobs = (int32_t)f->prompt_logprobs;
    out->stop = f->stop.items;
    out->n_stop = f->stop.n;
    SPEY_TRY(parse_beams(f, out));
    SPEY_TRY(parse_guide(f, arena, out));
    SPEY_TRY(parse_bad_words(f, engine, arena, out));
    SPEY_TRY(parse_id_lists(f, info, arena, out));
    return parse_bias(&f->logit_bias, arena, out);
}

int32_t spey_sampling_width(const spey_sampling *s)
{
    int32_t drawn = s->best_of > s->n ? s->best_of : s->n;
    return s->beams > drawn ? s->beams : drawn;
}
