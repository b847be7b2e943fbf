/* Inside a request: what its files share. */
#ifndef SPEY_RUNTIME_REQUEST_IMPL_H
#define SPEY_RUNTIME_REQUEST_IMPL_H

#include "runtime/request.h"

/* Does this token end a sequence, and how? End-of-text ends one with a guide in any case: it is allowed there only. */
spey_finish spey_request_end_of(const spey_request *request, spey_eos eos, int32_t id);
/* Change scores as the request wants it: its processor, penalties, bans, the guide. */
spey_status spey_request_process(spey_request *request, const spey_choosing *choosing,
                                 const spey_choice *choice, float *scores);

/* Biases that a rule can have: duplicates are looked for one by one. */
enum { SPEY_RULE_BIAS_MAX = 1024 };
/* Its tokens can be chosen by a device, as far as settings go. */
bool spey_request_may_have_rules(const spey_request *request);

/* The guide's matcher, until end, with the states of all sequences; nothing without a guide. */
spey_status spey_request_begin_guide(spey_request *request);
void spey_request_end_guide(spey_request *request);

/* Keep the event of the newest token, with its text unless it is what ended the sequence. */
void spey_request_keep(spey_request *request, spey_choice *choice, float logprob);
/* Send what the best sequences kept. */
void spey_request_tell_best(spey_request *request);

/* ---- beams ---- */

/* Everything that the search needs. */
spey_status spey_request_beams_new(spey_request *request, const spey_request_setup *setup);
void spey_request_beams_free(spey_request *request);
/* One step of the search; an error is a fault of the request. */
spey_status spey_request_beams_grow(spey_request *request, const spey_choosing *choosing,
                                    const spey_row *rows);

#endif
