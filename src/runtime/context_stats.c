/* What a context tells about its steps and requests. */
#include "base/clock.h"
#include "runtime/context_impl.h"

static void count_items(spey_context *c)
{
    spey_inflight_batching_stats *batch = &c->iteration.inflight_batching_stats;
    *batch = (spey_inflight_batching_stats){ .num_ctx_tokens = c->schedule.n_prefill_tokens };
    const spey_request *last = NULL;
    for (int32_t i = 0; i < c->schedule.n_items; i++) {
        const spey_schedule_item *item = &c->schedule.items[i];
        spey_request *r = item->owner;
        r->scheduled_iter = c->iteration.iter;
        if (r == last) continue; /* its items lie together */
        last = r;
        batch->num_scheduled_requests++;
        if (item->from < r->n_prompt)
            batch->num_context_requests++;
        else
            batch->num_gen_requests++;
    }
}

static void count_beginners(spey_context *c, uint64_t now_ns)
{
    for (int32_t i = 0; i < c->schedule.n_admits; i++) {
        spey_request *r = spey_scheduler_owner(c->scheduler, c->schedule.admits[i]);
        if (r->begun) continue; /* it was paused */
        r->begun = true;
        c->iteration.num_new_active_requests++;
        c->iteration.new_active_requests_queue_latency_ms +=
            (double)(now_ns - r->submitted_ns) * 1e-6;
    }
}

void spey_context_note_schedule(spey_context *c, uint64_t start_ns)
{
    uint64_t iter = c->iteration.iter + 1;
    int32_t completed = c->iteration.num_completed_requests;
    spey_scheduler_counts counts = spey_scheduler_count(c->scheduler);
    c->iteration = (spey_iteration_stats){
        .iter = iter,
        .num_completed_requests = completed,
        .num_active_requests = counts.running + counts.paused,
        .num_queued_requests = counts.queued,
        .max_num_active_requests = c->plan->limits.sequences_max,
        .max_batch_size_runtime = c->plan->limits.sequences_max,
        .max_num_tokens_runtime = c->plan->limits.step_tokens_max,
    };
    count_items(c);
    c->iteration.inflight_batching_stats.num_paused_requests = counts.paused;
    count_beginners(c, start_ns);
}

void spey_context_note_step(spey_context *c, uint64_t start_ns)
{
    spey_iteration_stats *i = &c->iteration;
    spey_kv_stats kv;
    spey_kv_read_stats(spey_runner_kv(c->runner), &kv);
    i->timestamp_ns = spey_clock_ns();
    i->iter_latency_ms = (double)(i->timestamp_ns - start_ns) * 1e-6;
    i->inflight_batching_stats.avg_num_decoded_tokens_per_iter =
        (double)c->n_grown / i->inflight_batching_stats.num_scheduled_requests;
    i->kv_cache_stats = (spey_kv_cache_stats){ .max_num_blocks = kv.max_num_blocks,
                                               .free_num_blocks = kv.free_num_blocks,
                                               .used_num_blocks = kv.used_num_blocks,
                                               .tokens_per_block = kv.tokens_per_block,
                                               .alloc_total_blocks = kv.alloc_total_blocks,
                                               .alloc_new_blocks = kv.alloc_new_blocks,
                                               .reused_blocks = kv.reused_blocks,
                                               .missed_blocks = kv.missed_blocks,
                                               .cache_hit_rate = kv.cache_hit_rate };
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
                                       .scheduled = r->scheduled_iter == c->iteration.iter &&
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
