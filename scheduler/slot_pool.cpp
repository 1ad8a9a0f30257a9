#include "scheduler/slot_pool.h"
