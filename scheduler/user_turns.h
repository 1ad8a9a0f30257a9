// UserTurns: one thread that does users' work, of each in order, and one piece of each user after the other:
// who asks for much keeps everybody else waiting for no more than one piece of it.
//
// Safe from any thread.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

namespace berth {

class UserTurns {
 public:
  /// Throws nothing.
  using Work = std::function<void()>;

  UserTurns();
  /// Waits for the piece that is being done, and drops the others.
  ~UserTurns();
  UserTurns(const UserTurns&) = delete;
  UserTurns& operator=(const UserTurns&) = delete;

  void post(uid_t user, Work work);
  /// Before what the user waits for already: the rest of what has been begun, whose memory is given back
  /// then.
  void post_next(uid_t user, Work work);

 private:
  /// Null: the thread ends.
  Work next();
  void run();
  void add(uid_t user, Work work, bool first);

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::map<uid_t, std::deque<Work>> waiting_;  // nobody without work
  std::deque<uid_t> turns_;                    // the users of waiting_, whose turn is next first
  bool stopping_ = false;
  std::thread thread_;  // last: it uses the others
};

}  // namespace berth
