// Committer: the thread that writes the database, so that the event loop never waits for a disk.
//
// Work that arrives while a transaction is being written becomes the next transaction, as a whole (group
// commit): the more there is to do, the more one fdatasync serves. So does everything that one turn of the
// event loop asks for: the end of a job and the start of the next are one transaction. Order is kept. The
// store belongs to this thread alone from the constructor on.
//
// Work may be done twice: one transaction without save points is tried first, as nearly always nothing
// throws.
//
// Each piece of work is told on the event loop when it is on the disk, or why it is not. Work that must not
// be lost (records of jobs that have run) is not told of a failure: it stays, with its order, and is tried
// again every kRetryInterval until the database works, and the trouble callback is told. Without such work
// the database itself is tried, as often.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "store/queue_store.h"

namespace berth {

class Committer {
 public:
  using Work = std::function<void(QueueStore&)>;
  /// Null: it is on the disk. Called on the event loop, in the order of the work; what it throws comes from
  /// the loop, and keeps it from no other.
  using Done = std::function<void(std::exception_ptr)>;
  /// Told on the event loop: why the database fails; null when it works again.
  using Trouble = std::function<void(const std::exception_ptr&)>;

  static constexpr std::chrono::milliseconds kRetryInterval{1000};
  /// How long commit_soon() waits for company.
  static constexpr std::chrono::milliseconds kSoon{20};

  /// `loop` runs no further handler once the Committer is gone.
  Committer(std::unique_ptr<QueueStore> store, boost::asio::io_context& loop, Trouble trouble);
  /// Writes what is still to be written, if the database works.
  ~Committer();
  Committer(const Committer&) = delete;
  Committer& operator=(const Committer&) = delete;

  // From the event loop's thread:
  void commit(Work work, Done done);
  /// As commit(), for work that must not be lost: `done` is told only of what the work itself threw.
  void commit_surely(Work work, Done done);
  /// As commit_surely(), for what may be lost in a crash without harm: it becomes a part of the next
  /// transaction, or one of its own after kSoon. Returns a number for withdraw().
  std::uint64_t commit_soon(Work work, Done done);
  /// Takes back what commit_soon() was given, `done` too; false when the thread has it already.
  bool withdraw(std::uint64_t number);

 private:
  struct Item {
    Work work;
    Done done;
    bool surely = false;
    std::uint64_t number = 0;  // of commit_soon()
    std::exception_ptr error = nullptr;
  };

  void stage(Item item);
  void hand_over();
  void run();
  bool probe(std::exception_ptr& trouble);
  bool write(std::vector<Item>& items, std::exception_ptr& trouble);
  bool write_as_one(std::vector<Item>& items, std::exception_ptr& trouble);
  void do_work(Item& item);
  void give_back(std::vector<Item>& items, bool written);

  std::unique_ptr<QueueStore> store_;
  boost::asio::io_context& loop_;
  Trouble trouble_;
  boost::asio::steady_timer soon_;
  std::vector<Item> staged_;  // of the event loop alone: what this turn of it has asked for
  bool hands_over_ = false;   // at the end of this turn
  bool soon_armed_ = false;
  std::uint64_t last_number_ = 0;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<Item> queue_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace berth
