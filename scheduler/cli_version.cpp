#include "scheduler/cli_version.h"

#include <boost/version.hpp>
#include <cstdio>

namespace berth {

void print_version(bool as_json) {
  if (!as_json) {
    std::puts("berth " BERTH_VERSION);
    return;
  }
  std::printf("{\"version\":\"" BERTH_VERSION "\",\"compiler\":\"%s\",\"boost\":\"%d.%d.%d\"}\n", __VERSION__,
              BOOST_VERSION / 100000, BOOST_VERSION / 100 % 1000, BOOST_VERSION % 100);
}

}  // namespace berth
