/* Activation functions by the names that checkpoints use; shared by gemm's epilogue, glu and unary. */
#ifndef SPEY_KERNELS_ACTIVATION_H
#define SPEY_KERNELS_ACTIVATION_H

/* clang-format off */
/* X(name, text) */
#define SPEY_ACTIVATION_LIST(X)                                             \
    X(NONE,      "none")      /* x */                                       \
    X(SILU,      "silu")      /* x / (1 + exp(-x)) */                       \
    X(GELU,      "gelu")      /* x Φ(x), by erf */                          \
    X(GELU_TANH, "gelu_tanh") /* 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))) */ \
    X(RELU,      "relu")                                                    \
    X(RELU2,     "relu2")     /* relu(x)² */                                \
    X(SIGMOID,   "sigmoid")                                                 \
    X(TANH,      "tanh")                                                    \
    X(QUICK_GELU,"quick_gelu") /* x sigmoid(1.702 x) */
/* clang-format on */

typedef enum spey_activation {
#define SPEY_ACTIVATION_ENUM(name, text) SPEY_ACT_##name,
    SPEY_ACTIVATION_LIST(SPEY_ACTIVATION_ENUM)
#undef SPEY_ACTIVATION_ENUM
        SPEY_ACT_COUNT
} spey_activation;

#endif
