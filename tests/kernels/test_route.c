/* Which experts a token gets, by hand. (route has one row, so checkkernel has nothing to compare it with.) */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "device/pool.h"
#include "kernels/route/route.h"
#include "kernels/rows.h"

enum { EXPERTS = 6 };

static const float logits[EXPERTS] = { 0, 2, 1, -1, 2, -3 };

static spey_route_args plain(int64_t top_k, float *out)
{
    return (spey_route_args){ .rows = 1,
                              .n_experts = EXPERTS,
                              .top_k = top_k,
                              .scale = 1,
                              .n_groups = 1,
                              .top_groups = 1,
                              .group_best = 1,
                              .logits = logits,
                              .pitch = EXPERTS,
                              .out = out };
}

static void route(const spey_route_args *args)
{
    int64_t counter = 0;
    const spey_lane lane = spey_lane_solo(&counter);
    assert_true(spey_route_ref.supports(args));
    spey_route_ref.run(args, &lane);
}

static void near(float value, double expected)
{
    if (!(fabs((double)value - expected) <= 1e-6))
        fail_msg("%.9g, expected %.9g", (double)value, expected);
}

static double softmax(int expert)
{
    double sum = 0;
    for (int e = 0; e < EXPERTS; e++)
        sum += exp((double)logits[e]);
    return exp((double)logits[expert]) / sum;
}

static double sigmoid(int expert)
{
    return 1 / (1 + exp(-(double)logits[expert]));
}

static void expect_experts(const float *out, int64_t n, const int *experts)
{
    for (int64_t i = 0; i < n; i++)
        assert_int_equal((int)out[n + i], experts[i]);
}

static void the_best_come_first_and_ties_go_to_the_lower(void **state)
{
    (void)state;
    float out[6];
    spey_route_args args = plain(3, out);
    route(&args);
    expect_experts(out, 3, (int[]){ 1, 4, 2 });
    near(out[0], softmax(1));
    near(out[1], softmax(4));
    near(out[2], softmax(2));
}

static void normalised_weights_are_a_softmax_over_the_chosen(void **state)
{
    (void)state;
    float out[6];
    spey_route_args args = plain(3, out);
    args.normalise = true;
    args.scale = 2.5f;
    route(&args);
    double sum = 2 * exp(2) + exp(1);
    near(out[0], 2.5 * exp(2) / sum);
    near(out[2], 2.5 * exp(1) / sum);
}

static void a_correction_counts_for_the_choice_alone(void **state)
{
    (void)state;
    static const float correction[EXPERTS] = { 0, -1, 0, 0, 0, 2 };
    float out[4];
    spey_route_args args = plain(2, out);
    args.scoring = SPEY_SCORING_SIGMOID;
    args.correction = correction;
    route(&args);
    expect_experts(out, 2, (int[]){ 5, 4 });
    near(out[0], sigmoid(5));
    near(out[1], sigmoid(4));
}

/* Groups { 0, 2 }, { 1, -1 }, { 2, -3 } of logits. */
static void groups_are_chosen_by_their_best_scores(void **state)
{
    (void)state;
    float out[4];
    spey_route_args args = plain(2, out);
    args.scoring = SPEY_SCORING_SIGMOID;
    args.n_groups = 3;
    args.top_groups = 1;
    route(&args); /* the first and the last are equally good */
    expect_experts(out, 2, (int[]){ 1, 0 });
    args.top_groups = 2;
    route(&args);
    expect_experts(out, 2, (int[]){ 1, 4 });
    args.group_best = 2; /* 0.5 + 0.88, 0.73 + 0.27, 0.88 + 0.05 */
    route(&args);
    expect_experts(out, 2, (int[]){ 1, 2 });
}

static void absurd_logits_still_give_different_experts(void **state)
{
    (void)state;
    static const float absurd[][EXPERTS] = {
        { NAN, NAN, NAN, NAN, NAN, NAN },
        { INFINITY, INFINITY, 0, -INFINITY, NAN, 1 },
        { -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY },
    };
    for (size_t k = 0; k < 3; k++)
        for (int groups = 1; groups <= 3; groups += 2) {
            float out[8];
            bool seen[EXPERTS] = { false };
            spey_route_args args = plain(4, out);
            args.logits = absurd[k];
            args.n_groups = groups;
            args.top_groups = groups == 1 ? 1 : 2;
            args.group_best = groups == 1 ? 1 : 2;
            route(&args);
            for (int i = 0; i < 4; i++) {
                int expert = (int)out[4 + i];
                assert_in_range(expert, 0, EXPERTS - 1);
                assert_false(seen[expert]);
                seen[expert] = true;
            }
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_come_first_and_ties_go_to_the_lower),
        cmocka_unit_test(normalised_weights_are_a_softmax_over_the_chosen),
        cmocka_unit_test(a_correction_counts_for_the_choice_alone),
        cmocka_unit_test(groups_are_chosen_by_their_best_scores),
        cmocka_unit_test(absurd_logits_still_give_different_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
