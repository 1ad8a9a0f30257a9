#include "scheduler/committer.h"

#include <boost/asio/io_context.hpp>
#include <catch2/catch.hpp>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "store/queue_store.h"

namespace berth {
namespace {

NewJob job_named(const std::string& name) {
  NewJob job;
  job.spec.name = name;
  job.spec.argv = {"/bin/true"};
  return job;
}

/// A committer, its loop, and what it told.
struct Fixture {
  boost::asio::io_context loop;
  std::vector<std::string> told;
  std::vector<std::string> names;  ///< of the jobs in the store, as the last work saw them
  Committer committer{QueueStore::open(":memory:"), loop, [this](const std::exception_ptr& error) {
                        told.push_back(error ? "trouble" : "no trouble");
                      }};

  Committer::Work submit(const std::string& name) {
    return [name](QueueStore& store) { store.submit({job_named(name)}, {"boot", 1, 1, "test"}); };
  }
  Committer::Done tell(const std::string& name) {
    return [this, name](const std::exception_ptr& error) { told.push_back(name + (error ? " failed" : "")); };
  }
  void look() {
    committer.commit(
        [this](QueueStore& store) {
          names.clear();
          for (const JobSummary& job : store.summaries({})) {
            names.push_back(job.name);
          }
        },
        tell("looked"));
  }
  /// Until everything asked for has been told.
  void run(std::size_t count) {
    while (told.size() < count) {
      loop.restart();
      loop.run_one();
    }
  }
};

using Words = std::vector<std::string>;

}  // namespace

TEST_CASE("work of one transaction that throws undoes itself alone, and all is told in order") {
  Fixture f;
  f.committer.commit(f.submit("first"), f.tell("first"));
  f.committer.commit([](QueueStore& store) { store.run(1234, 1, Timestamp{}); },  // there is no such job
                     f.tell("second"));
  f.committer.commit_surely(f.submit("third"), f.tell("third"));
  f.look();
  f.run(4);
  CHECK(f.told == Words{"first", "second failed", "third", "looked"});
  CHECK(f.names == Words{"first", "third"});
}

TEST_CASE("who throws when told keeps nobody else from being told, and the loop throws it") {
  Fixture f;
  f.committer.commit(f.submit("first"), [](const auto&) { throw std::runtime_error("told badly"); });
  f.committer.commit(f.submit("second"), f.tell("second"));
  f.run(1);
  CHECK(f.told == Words{"second"});
  CHECK_THROWS_WITH(f.loop.run(), "told badly");
}

TEST_CASE("a damaged database fails a transaction as a whole, and what must not be lost is tried again") {
  for (const StoreError::Kind kind : {StoreError::Kind::damaged, StoreError::Kind::unwritable}) {
    Fixture f;
    f.committer.commit(f.submit("first"), f.tell("first"));
    f.committer.commit_surely(
        [submit = f.submit("sure"), kind, failures = 1](QueueStore& store) mutable {
          submit(store);
          if (failures-- > 0) {
            throw StoreError("a page of it", kind);
          }
        },
        f.tell("sure"));
    f.committer.commit(f.submit("third"), f.tell("third"));
    f.run(5);
    CHECK(f.told == Words{"trouble", "first failed", "third failed", "no trouble", "sure"});
    f.look();
    f.run(6);
    CHECK(f.names == Words{"sure"});
  }
}

TEST_CASE("what must not be lost is tried again when memory ran out, and other work is not") {
  Fixture f;
  int tries = 0;
  const auto lack_memory = [&tries](QueueStore&) {
    if (++tries < 4) {
      throw std::bad_alloc();
    }
  };
  f.committer.commit_surely(lack_memory, f.tell("sure"));
  f.run(1);
  REQUIRE(f.told == Words{"trouble"});
  f.run(3);
  CHECK(f.told == Words{"trouble", "no trouble", "sure"});
  f.committer.commit([](QueueStore&) { throw std::bad_alloc(); }, f.tell("other"));
  f.run(4);
  CHECK(f.told.back() == "other failed");
}

TEST_CASE("a database that works again is noticed though nothing is asked for") {
  Fixture f;
  f.committer.commit([](QueueStore&) { throw StoreError("full", StoreError::Kind::unwritable); },
                     f.tell("first"));
  f.run(3);
  CHECK(f.told == Words{"trouble", "first failed", "no trouble"});
}

TEST_CASE("what may be committed soon can be withdrawn until the thread has it") {
  Fixture f;
  const std::uint64_t withdrawn = f.committer.commit_soon(f.submit("withdrawn"), f.tell("withdrawn"));
  const std::uint64_t kept = f.committer.commit_soon(f.submit("kept"), f.tell("kept"));
  CHECK(f.committer.withdraw(withdrawn));
  CHECK_FALSE(f.committer.withdraw(withdrawn));
  f.look();
  f.run(2);
  CHECK(f.told == Words{"kept", "looked"});
  CHECK(f.names == Words{"kept"});
  CHECK_FALSE(f.committer.withdraw(kept));
}

}  // namespace berth
