#include "model/rope_scaling.h"

#include <math.h>
#include <string.h>

static const char *const type_names[] = { "default", "linear", "dynamic",
                                          "llama3",  "yarn",   "longrope" };

/* ---- reading ---- */

static void read_type(spey_config *rope, spey_rope_config *out)
{
    const char *name = spey_config_text(rope, "rope_type|type", "default");
    if (rope->status) return;
    /* "su" is what Phi-3 called longrope at first. */
    if (strcmp(name, "su") == 0) name = "longrope";
    for (int t = SPEY_ROPE_DEFAULT; t <= SPEY_ROPE_LONGROPE; t++)
        if (strcmp(name, type_names[t]) == 0) {
            out->type = (spey_rope_type)t;
            return;
        }
    rope->status = SPEY_FAIL(SPEY_UNSUPPORTED,
                             "%s: rope_type is \"%.64s\"; supported are default, linear, dynamic, "
                             "llama3, yarn and longrope",
                             rope->where, name);
}

static void read_llama3(spey_config *rope, spey_rope_config *out)
{
    out->low_freq_factor = spey_config_number(rope, "low_freq_factor", 1e-6, 1e6, SPEY_REQUIRED);
    out->high_freq_factor = spey_config_number(rope, "high_freq_factor", 1e-6, 1e6, SPEY_REQUIRED);
    spey_config_demand(rope, out->high_freq_factor > out->low_freq_factor,
                       "high_freq_factor is %g, expected more than low_freq_factor, %g",
                       out->high_freq_factor, out->low_freq_factor);
}

static double mscale_of(double scale, double mscale)
{
    return scale <= 1 ? 1 : 0.1 * mscale * log(scale) + 1;
}

static void read_yarn(spey_config *rope, spey_rope_config *out)
{
    out->beta_fast = spey_config_number(rope, "beta_fast", 0, 1e6, 32);
    out->beta_slow = spey_config_number(rope, "beta_slow", 0, 1e6, 1);
    if (out->beta_fast == 0) out->beta_fast = 32;
    if (out->beta_slow == 0) out->beta_slow = 1;
    out->truncate = spey_config_bool(rope, "truncate", true);
    double mscale = spey_config_number(rope, "mscale", 0, 1e6, 0);
    double mscale_all_dim = spey_config_number(rope, "mscale_all_dim", 0, 1e6, 0);
    double computed = mscale_of(out->factor, 1);
    if (mscale != 0 && mscale_all_dim != 0)
        computed = mscale_of(out->factor, mscale) / mscale_of(out->factor, mscale_all_dim);
    out->magnitude = spey_config_number(rope, "attention_factor", 1e-6, 1e6, computed);
    spey_config_demand(rope, out->theta > 1, "yarn needs rope_theta above 1, it is %g", out->theta);
}

static void read_longrope(spey_config *rope, spey_rope_config *out)
{
    double computed = 1;
    if (out->factor > 1) {
        spey_config_demand(rope, out->original > 1,
                           "original_max_position_embeddings is %lld, expected more than 1",
                           (long long)out->original);
        if (!rope->status) computed = sqrt(1 + log(out->factor) / log((double)out->original));
    }
    out->magnitude = spey_config_number(rope, "attention_factor", 1e-6, 1e6, computed);
    spey_config_numbers(rope, "short_factor", 1e-6, 1e6, out->rotary / 2, out->short_factor);
    spey_config_numbers(rope, "long_factor", 1e-6, 1e6, out->rotary / 2, out->long_factor);
}

/* Positions the model was made for, and the ratio of the two position counts as the factor where none is given. */
static void read_extent(spey_config *config, spey_config *rope, spey_rope_config *out)
{
    int64_t positions =
        spey_config_int(config, "max_position_embeddings", 1, SPEY_POSITIONS_MAX, 2048);
    int64_t original = spey_config_int(config, "original_max_position_embeddings", 1,
                                       SPEY_POSITIONS_MAX, positions);
    out->original =
        spey_config_int(rope, "original_max_position_embeddings", 1, SPEY_POSITIONS_MAX, original);
    double ratio = SPEY_REQUIRED;
    if (out->type == SPEY_ROPE_YARN || out->type == SPEY_ROPE_LONGROPE)
        ratio = (double)positions / (double)out->original;
    out->factor = spey_config_number(rope, "factor", 1e-6, 1e6, ratio);
    if (out->type == SPEY_ROPE_DYNAMIC) out->original = positions;
}

void spey_rope_read(spey_config *config, const char *layer_type, double theta, int64_t rotary,
                    spey_rope_config *out)
{
    *out = (spey_rope_config){ .rotary = rotary, .factor = 1, .magnitude = 1 };
    char where[SPEY_PATH_BYTES_MAX], where_type[SPEY_PATH_BYTES_MAX];
    spey_config rope = spey_config_enter(config, "rope_parameters|rope_scaling", where);
    if (layer_type && spey_config_has(&rope, layer_type))
        rope = spey_config_enter(&rope, layer_type, where_type);
    theta = spey_config_number(config, "rope_theta|rotary_emb_base", 1e-3, 1e15, theta);
    out->theta = spey_config_number(&rope, "rope_theta", 1e-3, 1e15, theta);
    read_type(&rope, out);
    if (out->type != SPEY_ROPE_DEFAULT) read_extent(config, &rope, out);
    spey_config_demand(&rope, rotary >= 2 && rotary % 2 == 0 && rotary <= SPEY_HEAD_DIM_MAX,
                       "%lld rotated elements of a head, expected an even number in 2…%d",
                       (long long)rotary, SPEY_HEAD_DIM_MAX);
    switch (out->type) {
    case SPEY_ROPE_LLAMA3: read_llama3(&rope, out); break;
    case SPEY_ROPE_YARN: read_yarn(&rope, out); break;
    case SPEY_ROPE_LONGROPE: read_longrope(&rope, out); break;
    case SPEY_ROPE_DYNAMIC:
        spey_config_demand(&rope, rotary > 2, "dynamic needs more than 2 rotated elements");
        break;
    case SPEY_ROPE_DEFAULT:
    case SPEY_ROPE_LINEAR: break;
    }
    spey_config_leave(config, &rope);
}

int64_t spey_rope_read_rotary(spey_config *config, int64_t head_dim, double missing)
{
    char where[SPEY_PATH_BYTES_MAX];
    spey_config rope = spey_config_enter(config, "rope_parameters|rope_scaling", where);
    double part = spey_config_number(config, "partial_rotary_factor|rotary_pct", 1e-3, 1, missing);
    part = spey_config_number(&rope, "partial_rotary_factor", 1e-3, 1, part);
    spey_config_leave(config, &rope);
    return (int64_t)((double)head_dim * part);
}

/* ---- frequencies: every line in the order and the width of the original ---- */

/* base ** (2i / rotary) */
static float power(const spey_rope_config *rope, int64_t i)
{
    float exponent = (float)(2 * i) / (float)rope->rotary;
    return (float)pow((double)(float)rope->theta, (double)exponent);
}

static float llama3(const spey_rope_config *rope, float inv_freq)
{
    float factor = (float)rope->factor, original = (float)rope->original;
    float low = (float)rope->low_freq_factor;
    double low_wavelen = (double)rope->original / rope->low_freq_factor;
    double high_wavelen = (double)rope->original / rope->high_freq_factor;
    float wavelen = (float)(2 * M_PI) / inv_freq;
    if (wavelen > (float)low_wavelen) return inv_freq / factor;
    if (wavelen < (float)high_wavelen) return inv_freq;
    float smooth =
        (original / wavelen - low) / (float)(rope->high_freq_factor - rope->low_freq_factor);
    return (1 - smooth) * inv_freq / factor + smooth * inv_freq;
}

/* The element whose wave turns `rotations` times within the original positions. */
static double correction(const spey_rope_config *rope, double rotations)
{
    return (double)rope->rotary * log((double)rope->original / (rotations * 2 * M_PI)) /
           (2 * log(rope->theta));
}

static void yarn(const spey_rope_config *rope, float *inv_freq)
{
    double low = correction(rope, rope->beta_fast), high = correction(rope, rope->beta_slow);
    if (rope->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)(rope->rotary - 1));
    if (low == high) high += 0.001;
    for (int64_t i = 0; i < rope->rotary / 2; i++) {
        float ramp = ((float)i - (float)low) / (float)(high - low);
        ramp = fminf(fmaxf(ramp, 0), 1);
        float base = power(rope, i);
        float extrapolated = 1 / base, interpolated = 1 / ((float)rope->factor * base);
        float keep = 1 - ramp;
        inv_freq[i] = interpolated * (1 - keep) + extrapolated * keep;
    }
}

void spey_rope_frequencies(const spey_rope_config *rope, bool extended, float *inv_freq)
{
    if (rope->type == SPEY_ROPE_YARN) {
        yarn(rope, inv_freq);
        return;
    }
    for (int64_t i = 0; i < rope->rotary / 2; i++) {
        float base = power(rope, i);
        inv_freq[i] = 1 / base;
        if (rope->type == SPEY_ROPE_LINEAR) inv_freq[i] /= (float)rope->factor;
        if (rope->type == SPEY_ROPE_LLAMA3) inv_freq[i] = llama3(rope, inv_freq[i]);
        if (rope->type == SPEY_ROPE_LONGROPE)
            inv_freq[i] = 1 / ((extended ? rope->long_factor : rope->short_factor)[i] * base);
    }
}
