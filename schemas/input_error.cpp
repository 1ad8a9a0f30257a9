#include "schemas/input_error.h"
