// SSDKD_SIMULATED_IDLE=1: nothing is computed, so that all of the time that passes is the program's own.
#pragma once

#include <cstdlib>

inline bool idle() {
    static const bool idle = std::getenv("SSDKD_SIMULATED_IDLE");
    return idle;
}
