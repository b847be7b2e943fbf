/* The only environment variables that Spey reads: SPEY_ISA and SPEY_KERNEL (to bisect a wrong answer),
 * XDG_CACHE_HOME and HOME (where built engines are cached). */
#ifndef SPEY_BASE_ENV_H
#define SPEY_BASE_ENV_H

/* NULL when unset or empty. */
const char *spey_env(const char *name);

#endif
