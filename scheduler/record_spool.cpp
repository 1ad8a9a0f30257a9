#include "scheduler/record_spool.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "scheduler/crash_point.h"

namespace berth {
namespace {

constexpr const char* kSuffix = ".record";

[[noreturn]] void fail(const std::string& what, const std::string& path) {
  throw std::system_error(errno, std::generic_category(), what + " " + path);
}

void write_and_sync(const std::string& path, const std::string& text) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (descriptor < 0) {
    fail("open", path);
  }
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t count = ::write(descriptor, text.data() + done, text.size() - done);
    if (count < 0 && errno != EINTR) {
      const int error_number = errno;
      ::close(descriptor);
      errno = error_number;
      fail("write", path);
    }
    done += static_cast<std::size_t>(std::max<ssize_t>(count, 0));
  }
  const bool synced = ::fsync(descriptor) == 0;
  const int error_number = errno;
  ::close(descriptor);
  if (!synced) {
    errno = error_number;
    fail("fsync", path);
  }
}

}  // namespace

std::string RecordSpool::path_of(AttemptId id) const {
  return folder_ + "/" + std::to_string(id.job_id) + "." + std::to_string(id.attempt) + kSuffix;
}

void RecordSpool::sync_folder() const {
  const int descriptor = ::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool synced = descriptor >= 0 && ::fsync(descriptor) == 0;
  const int error_number = errno;
  if (descriptor >= 0) {
    ::close(descriptor);
  }
  if (!synced) {
    errno = error_number;
    fail("fsync", folder_);
  }
}

void RecordSpool::put(const RunnerMessage& ended) const {
  const std::string path = path_of(ended.id);
  write_and_sync(path + ".new", to_frame(ended));
  crash_point("runner.spool_written");
  if (::rename((path + ".new").c_str(), path.c_str()) != 0) {
    fail("rename", path);
  }
  sync_folder();
  crash_point("runner.spooled");
}

std::vector<RunnerMessage> RecordSpool::read_all(std::vector<std::string>& problems) const {
  std::vector<RunnerMessage> records;
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
    if (entry.path().extension() != kSuffix) {
      continue;
    }
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    try {
      FrameReader reader;
      reader.append(text.data(), text.size());
      std::optional<RunnerMessage> record = reader.next();
      if (!record || record->kind != RunnerMessage::Kind::ended || path_of(record->id) != entry.path()) {
        throw std::runtime_error("it holds no record");
      }
      records.push_back(std::move(*record));
    } catch (const std::exception& error) {
      problems.push_back(entry.path().string() + ": " + error.what() + "; look at it and remove it");
    }
  }
  std::sort(records.begin(), records.end(),
            [](const RunnerMessage& a, const RunnerMessage& b) { return a.id < b.id; });
  return records;
}

void RecordSpool::remove_unfinished(const std::vector<AttemptId>& held) const {
  std::vector<std::filesystem::path> unfinished;
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
    const bool is_held = std::any_of(
        held.begin(), held.end(), [&](const AttemptId& id) { return entry.path() == path_of(id) + ".new"; });
    if (entry.path().extension() == ".new" && !is_held) {
      unfinished.push_back(entry.path());
    }
  }
  for (const std::filesystem::path& path : unfinished) {
    ::unlink(path.c_str());
  }
}

void RecordSpool::remove(AttemptId id) const {
  ::unlink(path_of(id).c_str());
}

}  // namespace berth
