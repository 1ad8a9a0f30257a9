#include "scheduler/number_mark.h"

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <system_error>

namespace berth {

std::optional<GivenNumbers> read_number_mark(const std::string& path) {
  std::ifstream file(path);
  std::string jobs;
  std::string events;
  GivenNumbers numbers;
  if (file >> jobs >> numbers.job >> events >> numbers.event && jobs == "jobs" && events == "events") {
    return numbers;
  }
  return std::nullopt;
}

void write_number_mark(const std::string& path, const GivenNumbers& numbers) {
  const std::string unfinished = path + ".new";
  std::ofstream file(unfinished, std::ios::trunc);
  file << "jobs " << numbers.job << "\nevents " << numbers.event << "\n";
  file.close();
  if (!file || std::rename(unfinished.c_str(), path.c_str()) != 0) {
    throw std::system_error(errno, std::generic_category(), "write " + path);
  }
}

}  // namespace berth
