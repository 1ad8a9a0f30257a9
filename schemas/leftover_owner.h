// Whose the cgroups are that a killed berth has left: of the database that its jobs are recorded in.
#pragma once

#include <cstdint>

namespace berth {

enum class LeftoverOwner : std::uint8_t {
  unknown,  ///< not told, or not to be told from here: in other mounts, on a file system that is not there
  own,      ///< of the one who asks
  other,
  gone,  ///< the file is there no more
};

}  // namespace berth
