#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512bw,avx512vl")
#define LOOPS rows_loops_avx512
#include "_rows_loops.h"
#endif
