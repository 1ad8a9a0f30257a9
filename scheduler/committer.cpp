#include "scheduler/committer.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <iterator>
#include <new>
#include <utility>

#include "scheduler/loop_error.h"

namespace berth {

Committer::Committer(std::unique_ptr<QueueStore> store, boost::asio::io_context& loop, Trouble trouble)
    : store_(std::move(store)), loop_(loop), trouble_(std::move(trouble)), soon_(loop), thread_([this] {
        run();
      }) {}

Committer::~Committer() {
  hand_over();
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  arrived_.notify_one();
  thread_.join();
}

void Committer::commit(Work work, Done done) {
  stage({std::move(work), std::move(done), false});
}

void Committer::commit_surely(Work work, Done done) {
  stage({std::move(work), std::move(done), true});
}

std::uint64_t Committer::commit_soon(Work work, Done done) {
  if (!soon_armed_) {
    soon_.expires_after(kSoon);
    soon_.async_wait([this](const boost::system::error_code& error) {
      if (!error) {
        soon_armed_ = false;
        hand_over();
      }
    });
    soon_armed_ = true;
  }
  staged_.push_back({std::move(work), std::move(done), true, ++last_number_});
  return last_number_;
}

bool Committer::withdraw(std::uint64_t number) {
  const auto found =
      std::find_if(staged_.begin(), staged_.end(), [&](const Item& item) { return item.number == number; });
  if (found == staged_.end()) {
    return false;
  }
  staged_.erase(found);
  return true;
}

/// Given to the thread when everything that is ready on the loop has had its turn.
void Committer::stage(Item item) {
  if (!hands_over_) {
    boost::asio::post(loop_, [this] { hand_over(); });
    hands_over_ = true;
  }
  staged_.push_back(std::move(item));
}

void Committer::hand_over() {
  hands_over_ = false;
  if (staged_.empty()) {
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    queue_.insert(queue_.end(), std::make_move_iterator(staged_.begin()),
                  std::make_move_iterator(staged_.end()));
  }
  staged_.clear();
  arrived_.notify_one();
}

void Committer::run() {
  bool troubled = false;
  bool probes = false;
  std::unique_lock lock(mutex_);
  while (true) {
    const auto ready = [this] { return stopping_ || !queue_.empty(); };
    if (probes) {
      // Nothing may come while berthd refuses what it would have to write: the next try is made without.
      arrived_.wait_for(lock, kRetryInterval, ready);
    } else {
      arrived_.wait(lock, ready);
    }
    if (queue_.empty() && stopping_) {
      return;
    }
    std::vector<Item> items = std::exchange(queue_, {});
    lock.unlock();
    std::exception_ptr trouble;
    const bool written = items.empty() ? probe(trouble) : write(items, trouble);
    probes = trouble && !is_damage(trouble);  // what is damaged does not mend itself
    if (written == troubled) {
      troubled = !written;
      boost::asio::post(loop_, [this, trouble] { trouble_(trouble); });
    }
    give_back(items, written);
    lock.lock();
    if (!written) {
      // What must not be lost goes before what has arrived meanwhile.
      queue_.insert(queue_.begin(), std::make_move_iterator(items.begin()),
                    std::make_move_iterator(items.end()));
      if (stopping_) {
        return;  // the runners keep their records until a berthd acknowledges them
      }
      arrived_.wait_for(lock, kRetryInterval, [this] { return stopping_; });
    }
  }
}

bool Committer::probe(std::exception_ptr& trouble) {
  try {
    store_->probe();
    return true;
  } catch (const std::exception&) {
    trouble = std::current_exception();
    return false;
  }
}

/// False when the transaction failed as a whole.
bool Committer::write(std::vector<Item>& items, std::exception_ptr& trouble) {
  if (write_as_one(items, trouble)) {
    return true;
  }
  try {
    if (trouble) {
      std::rethrow_exception(trouble);
    }
    store_->together([&] {
      for (Item& item : items) {
        do_work(item);
      }
    });
    return true;
  } catch (const std::exception&) {
    trouble = std::current_exception();
    for (Item& item : items) {
      item.error = std::current_exception();
    }
    return false;
  }
}

/// False when one of them threw, and nothing has been written; with `trouble` when that is no fault of its
/// own.
bool Committer::write_as_one(std::vector<Item>& items, std::exception_ptr& trouble) {
  try {
    store_->as_one([&] {
      for (Item& item : items) {
        item.error = nullptr;
        item.work(*store_);
      }
    });
    return true;
  } catch (const StoreError& error) {
    if (error.kind() != StoreError::Kind::refused) {
      trouble = std::current_exception();
    }
  } catch (const std::exception&) {
    // Found again, and told of, where each is on its own.
  }
  return false;
}

/// What the work itself got wrong is its own; a database that cannot be written or is damaged fails the whole
/// transaction, which SQLite may have rolled back already. So does a lack of memory what must not be lost.
void Committer::do_work(Item& item) {
  item.error = nullptr;
  try {
    item.work(*store_);
  } catch (const StoreError& error) {
    if (error.kind() != StoreError::Kind::refused) {
      throw;
    }
    item.error = std::current_exception();
  } catch (const std::bad_alloc&) {
    if (item.surely) {
      throw;
    }
    item.error = std::current_exception();
  } catch (...) {
    item.error = std::current_exception();
  }
}

/// Tells what is decided; leaves in `items` what must be tried again.
void Committer::give_back(std::vector<Item>& items, bool written) {
  std::vector<Item> again;
  std::vector<std::pair<Done, std::exception_ptr>> decided;
  for (Item& item : items) {
    if (!written && item.surely) {
      again.push_back(std::move(item));
      continue;
    }
    decided.emplace_back(std::move(item.done), item.error);
  }
  items = std::move(again);
  if (!decided.empty()) {
    boost::asio::post(loop_, [this, decided = std::move(decided)] {
      for (const auto& item : decided) {
        call_apart(loop_, [&] { item.first(item.second); });  // the others are decided too
      }
    });
  }
}

}  // namespace berth
