#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx2")
#define LOOPS rows_loops_avx2
#include "_rows_loops.h"
#endif
