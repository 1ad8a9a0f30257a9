#include "scheduler/user_turns.h"

#include <utility>

namespace berth {

UserTurns::UserTurns() : thread_([this] { run(); }) {}

UserTurns::~UserTurns() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  arrived_.notify_one();
  thread_.join();
}

void UserTurns::post(uid_t user, Work work) {
  add(user, std::move(work), false);
}

void UserTurns::post_next(uid_t user, Work work) {
  add(user, std::move(work), true);
}

void UserTurns::add(uid_t user, Work work, bool first) {
  {
    const std::lock_guard lock(mutex_);
    std::deque<Work>& own = waiting_[user];
    if (own.empty()) {
      turns_.push_back(user);
    }
    own.insert(first ? own.begin() : own.end(), std::move(work));
  }
  arrived_.notify_one();
}

UserTurns::Work UserTurns::next() {
  std::unique_lock lock(mutex_);
  arrived_.wait(lock, [this] { return stopping_ || !turns_.empty(); });
  if (stopping_) {
    return nullptr;
  }
  const auto own = waiting_.find(turns_.front());
  turns_.pop_front();
  Work work = std::move(own->second.front());
  own->second.pop_front();
  if (own->second.empty()) {
    waiting_.erase(own);
  } else {
    turns_.push_back(own->first);
  }
  return work;
}

void UserTurns::run() {
  while (const Work work = next()) {
    work();
  }
}

}  // namespace berth
