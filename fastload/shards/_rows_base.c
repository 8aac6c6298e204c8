#define LOOPS rows_loops_base
#include "_rows_loops.h"
