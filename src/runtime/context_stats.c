/* What a context tells about its steps and requests. */
#include "base/clock.h"
#include "runtime/context_impl.h"

static void count_items(spey_context_turn *turn)
{
    const spey_schedule *s = &turn->schedule;
    spey_inflight_batching_stats *batch = &turn->iteration.inflight_batching_stats;
    *batch = (spey_inflight_batching_stats){ .num_ctx_tokens = s->n_prefill_tokens };
    const spey_request *last = NULL;
    for (int32_t i = 0; i < s->n_items; i++) {
        const spey_schedule_item *item = &s->items[i];
        spey_request *r = item->owner;
        r->scheduled_iter = turn->iteration.iter;
        if (r == last) continue; /* its items lie together */
        last = r;
        batch->num_scheduled_requests++;
        if (item->from < r->n_prompt)
            batch->num_context_requests++;
        else
            batch->num_gen_requests++;
    }
}

static void count_beginners(const spey_context *c, spey_context_turn *turn)
{
    for (int32_t i = 0; i < turn->schedule.n_admits; i++) {
        spey_request *r = spey_scheduler_owner(c->scheduler, turn->schedule.admits[i]);
        if (r->begun) continue; /* it was paused */
        r->begun = true;
        turn->iteration.num_new_active_requests++;
        turn->iteration.new_active_requests_queue_latency_ms +=
            (double)(turn->start_ns - r->submitted_ns) * 1e-6;
    }
}

void spey_context_note_schedule(spey_context *c, spey_context_turn *turn)
{
    spey_scheduler_counts counts = spey_scheduler_count(c->scheduler);
    turn->iteration = (spey_iteration_stats){
        .iter = ++c->n_noted,
        .began_ahead = c->n_launched > c->n_delivered,
        .num_active_requests = counts.running + counts.paused,
        .num_queued_requests = counts.queued,
        .max_num_active_requests = c->plan->limits.sequences_max,
        .max_batch_size_runtime = c->plan->limits.sequences_max,
        .max_num_tokens_runtime = c->plan->limits.step_tokens_max,
    };
    count_items(turn);
    turn->iteration.inflight_batching_stats.num_paused_requests = counts.paused;
    count_beginners(c, turn);
}

/* From the end of the last step, or from its own plan when nothing was under way then: what the steps of a busy engine take
 * adds up to the time. */
static void note_times(spey_context *c, spey_iteration_stats *i, uint64_t start_ns)
{
    uint64_t last_ns = c->iteration.timestamp_ns, busy_ns = spey_runner_busy_ns(c->runner);
    i->timestamp_ns = spey_clock_ns();
    i->iter_latency_ms =
        (double)(i->timestamp_ns - (start_ns > last_ns ? start_ns : last_ns)) * 1e-6;
    i->model_ms = (double)(busy_ns - c->busy_ns) * 1e-6;
    c->busy_ns = busy_ns;
    i->host_ms = (double)(c->host_ns + i->timestamp_ns - c->host_since_ns) * 1e-6;
    c->host_ns = 0;
    c->host_since_ns = i->timestamp_ns;
    uint64_t idle_ns = spey_runner_idle_ns(c->runner);
    double hidden_ms = i->host_ms - (double)(idle_ns - c->idle_ns) * 1e-6;
    c->idle_ns = idle_ns;
    i->hidden_host_ms = i->began_ahead && hidden_ms > 0 ? hidden_ms : 0;
}

void spey_context_note_step(spey_context *c, const spey_context_turn *turn)
{
    spey_iteration_stats i = turn->iteration;
    spey_kv_stats kv;
    spey_kv_read_stats(spey_runner_kv(c->runner), &kv);
    note_times(c, &i, turn->start_ns);
    i.num_completed_requests = c->n_completed;
    c->n_completed = 0;
    i.inflight_batching_stats.avg_num_decoded_tokens_per_iter =
        (double)c->n_grown / i.inflight_batching_stats.num_scheduled_requests;
    i.kv_cache_stats = (spey_kv_cache_stats){ .max_num_blocks = kv.max_num_blocks,
                                              .free_num_blocks = kv.free_num_blocks,
                                              .used_num_blocks = kv.used_num_blocks,
                                              .tokens_per_block = kv.tokens_per_block,
                                              .alloc_total_blocks = kv.alloc_total_blocks,
                                              .alloc_new_blocks = kv.alloc_new_blocks,
                                              .reused_blocks = kv.reused_blocks,
                                              .missed_blocks = kv.missed_blocks,
                                              .cache_hit_rate = kv.cache_hit_rate,
                                              .file_stored_blocks = kv.file_stored_blocks,
                                              .file_loaded_blocks = kv.file_loaded_blocks,
                                              .file_discarded_blocks = kv.file_discarded_blocks };
    c->iteration = i;
}

bool spey_context_read_iteration(const spey_context *c, uint64_t after, spey_iteration_stats *out)
{
    if (c->iteration.iter <= after) return false;
    *out = c->iteration;
    return true;
}

size_t spey_context_read_requests(const spey_context *c, spey_request_stats *out, size_t max)
{
    size_t n = 0;
    for (const spey_request *r = c->first; r; r = r->next, n++) {
        if (n >= max) continue;
        spey_ticket_progress progress = spey_scheduler_progress(c->scheduler, r->ticket);
        int64_t prompt = progress.n_done < r->n_prompt ? progress.n_done : r->n_prompt;
        out[n] = (spey_request_stats){ .id = r->id,
                                       .context_prefill_position = prompt,
                                       .scheduled = r->scheduled_iter >= c->iteration.iter &&
                                                    c->iteration.iter,
                                       .paused = progress.paused };
        for (int32_t i = 0; i < r->width; i++)
            if (r->choices[i].n - r->n_prompt > out[n].num_generated_tokens)
                out[n].num_generated_tokens = r->choices[i].n - r->n_prompt;
        if (progress.begun)
            out[n].stage = progress.generates ? SPEY_STAGE_GENERATION : SPEY_STAGE_CONTEXT;
    }
    return n;
}
