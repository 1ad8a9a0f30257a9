#include "scheduler/api_streams.h"

#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "scheduler/api.h"
#include "scheduler/log.h"
#include "scheduler/output_files.h"
#include "schemas/job_file.h"
#include "schemas/terminal_text.h"

namespace berth {
namespace {

constexpr std::size_t kPiece = std::size_t{64} * 1024;
/// How often a file that is followed is looked at.
constexpr std::chrono::milliseconds kLook{100};
constexpr std::size_t kEventsAtOnce = 500;

class OutputStream final : public ApiStream, public std::enable_shared_from_this<OutputStream> {
 public:
  OutputStream(boost::asio::io_context& loop, Daemon& daemon, JobId job, std::string path, FileOwner owner,
               std::uint64_t offset, bool follow)
      : timer_(loop),
        daemon_(daemon),
        job_(job),
        path_(std::move(path)),
        owner_(std::move(owner)),
        offset_(offset),
        follow_(follow),
        size_(static_cast<off_t>(offset)) {}
  ~OutputStream() override {
    if (descriptor_ >= 0) {
      ::close(descriptor_);
    }
  }
  OutputStream(const OutputStream&) = delete;
  OutputStream& operator=(const OutputStream&) = delete;

  /// False when the file is not there.
  bool open() {
    try {
      descriptor_ = open_output_to_read(path_, owner_);
      return true;
    } catch (const std::system_error& error) {
      if (error.code().value() == ENOENT) {
        return false;
      }
      throw ApiError(403, error.what());
    }
  }

  void next(std::function<void(std::string)> give) override {
    // Asked before the file is read: what is written before the end is read after it.
    const bool over = daemon_.is_over(job_);
    if (descriptor_ < 0) {
      size_ = 0;  // there was no file that could have become shorter
      try {
        open();
      } catch (const ApiError& error) {
        break_off(error.what());
        give({});
        return;
      }
    }
    if (follow_ && was_truncated()) {
      offset_ = 0;
      anew_ = true;
    }
    std::string piece(kPiece, '\0');
    piece.resize(read_into(piece));
    offset_ += piece.size();
    if (!piece.empty()) {
      size_ = std::max(size_, static_cast<off_t>(offset_));  // it may have grown since it was looked at
    }
    if (!piece.empty() || !follow_ || over || lost_ || broken_) {
      give(std::move(piece));
      return;
    }
    timer_.expires_after(kLook);
    timer_.async_wait([self = shared_from_this(), give = std::move(give)](const boost::system::error_code&) {
      if (self->lost_) {
        give({});
      } else {
        self->next(give);
      }
    });
  }

  bool is_broken() const override { return broken_; }

  std::string_view extensions() override {
    return std::exchange(anew_, false) ? kBeginsAnew : std::string_view();
  }

  void lose() {
    lost_ = true;
    timer_.cancel();
  }

 private:
  std::size_t read_into(std::string& piece) {
    if (descriptor_ < 0) {
      return 0;
    }
    const AsOwner as_owner(owner_);
    const ssize_t count = ::pread(descriptor_, piece.data(), piece.size(), static_cast<off_t>(offset_));
    if (count < 0) {
      break_off(path_ + ": " + std::generic_category().message(errno));
    }
    return static_cast<std::size_t>(std::max<ssize_t>(count, 0));
  }

  void break_off(const std::string& why) {
    broken_ = true;
    log_warning("the output of job " + std::to_string(job_) + " cannot be read any further: " + why);
  }

  /// Since it was asked last, at first since somebody read up to the offset: the file begins anew then, as
  /// tail(1) takes it.
  bool was_truncated() {
    struct stat status {};
    if (descriptor_ < 0 || ::fstat(descriptor_, &status) != 0) {
      return false;
    }
    return status.st_size < std::exchange(size_, status.st_size);
  }

  boost::asio::steady_timer timer_;
  Daemon& daemon_;
  JobId job_;
  std::string path_;
  FileOwner owner_;
  std::uint64_t offset_;
  bool follow_;
  bool lost_ = false;
  bool broken_ = false;
  bool anew_ = false;  ///< the next piece is the file's beginning
  int descriptor_ = -1;
  off_t size_;  ///< of the file, when it was looked at last
};

std::string event_line(const JobEvent& event) {
  nlohmann::ordered_json value{{"sequence", event.sequence},
                               {"job_id", event.job_id},
                               {"attempt", event.attempt},
                               {"at", format_instant_utc(event.at)},
                               {"state", std::string(to_string(event.state))}};
  if (!event.detail.empty()) {
    value["detail"] = nlohmann::ordered_json::parse(event.detail, nullptr, false);
  }
  return printable_json(value) + "\n";
}

class EventStream final : public ApiStream, public std::enable_shared_from_this<EventStream> {
 public:
  EventStream(Api& api, ReadThen read, std::optional<unsigned> user_id, std::int64_t after, bool follow)
      : api_(api), read_(std::move(read)), user_id_(user_id), after_(after), follow_(follow) {}

  void next(std::function<void(std::string)> give) override {
    const auto found = std::make_shared<Found>();
    // Before the look: a commit between the look and the wait is not missed.
    changed_ = false;
    wake_ = std::make_shared<std::function<void()>>([this] {
      changed_ = true;
      if (const auto waiting = std::exchange(waiting_, {})) {
        next(waiting);
      }
    });
    if (follow_) {
      api_.when_changed(wake_);
    }
    read_(
        [found, after = after_, user = user_id_](QueueStore& store) {
          found->events = store.events_after(after, kEventsAtOnce, user, found->looked_at);
        },
        [self = shared_from_this(), found, give = std::move(give)](bool is_read) {
          self->broken_ = !is_read && !self->follow_;  // who follows gets them with the next ones
          self->take(*found, give);
        });
  }

  bool is_broken() const override { return broken_; }

  void lose() {
    lost_ = true;
    if (const auto waiting = std::exchange(waiting_, {})) {
      waiting({});
    }
  }

 private:
  struct Found {
    std::vector<JobEvent> events;
    std::int64_t looked_at = 0;
  };

  void take(const Found& found, const std::function<void(std::string)>& give) {
    std::string lines;
    for (const JobEvent& event : found.events) {
      lines += event_line(event);
    }
    after_ = std::max(after_, found.looked_at);  // others' events are passed over once
    if (!lines.empty() || !follow_ || lost_) {
      give(lost_ ? std::string() : std::move(lines));
    } else if (changed_) {
      next(give);
    } else {
      waiting_ = give;
    }
  }

  Api& api_;
  ReadThen read_;
  std::optional<unsigned> user_id_;
  std::int64_t after_;
  bool follow_;
  bool lost_ = false;
  bool broken_ = false;
  bool changed_ = false;
  std::function<void(std::string)> waiting_;
  std::shared_ptr<std::function<void()>> wake_;
};

}  // namespace

std::shared_ptr<ApiStream> make_output_stream(boost::asio::io_context& loop, Daemon& daemon,
                                              const StoredJob& job, const Actor& actor, bool standard_error,
                                              std::uint64_t offset, bool follow, Interest& interest) {
  const std::string name = "job " + std::to_string(job.job_id);
  const JobSpec spec = parse_stored_job(job.spec_text, name);
  const bool own_file = standard_error && !spec.standard_error.empty();
  const PatternValues values{job.job_id, spec.name, job.user, job.array_job_id, job.array_task_id};
  const std::string path = expand_pattern(own_file ? spec.standard_error : spec.standard_output, values);
  if (path == "/dev/null") {
    throw ApiError(404, name + " has no output: it goes to /dev/null");
  }
  auto stream = std::make_shared<OutputStream>(
      loop, daemon, job.job_id, path, FileOwner{actor.user_id, actor.group_id, actor.name}, offset, follow);
  if (!stream->open() && !(follow && !daemon.is_over(job.job_id))) {
    throw ApiError(404, name + " has no output: there is no file " + path);
  }
  interest.when_lost([weak = std::weak_ptr(stream)] {
    if (const auto held = weak.lock()) {
      held->lose();
    }
  });
  return stream;
}

std::shared_ptr<ApiStream> make_event_stream(Api& api, ReadThen read, std::optional<unsigned> user_id,
                                             std::int64_t after, bool follow, Interest& interest) {
  auto stream = std::make_shared<EventStream>(api, std::move(read), user_id, after, follow);
  interest.when_lost([weak = std::weak_ptr(stream)] {
    if (const auto held = weak.lock()) {
      held->lose();
    }
  });
  return stream;
}

}  // namespace berth
