/* Random graphs that obey every rule: pieces of transformers next to nonsense, with all ops, values read often or never. */
#ifndef SPEY_TESTS_GRAPH_RANDOM_GRAPH_H
#define SPEY_TESTS_GRAPH_RANDOM_GRAPH_H

#include "graph/graph.h"

/* The same seed gives the same graph. The vocabulary has 10 tokens. A failure ends the program. */
spey_graph *random_graph(uint64_t seed);

#endif
