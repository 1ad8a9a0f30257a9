// Database: one SQLite connection to berth's file: opening, pragmas, migrations, cached statements.
//
// Internal to store/. Owns the connection; one thread at a time. Every failure is a StoreError that names
// the file and what to do. Lasting choices and their reasons are in store/README.md.
#pragma once

#include <SQLiteCpp/Database.h>
#include <SQLiteCpp/Exception.h>
#include <SQLiteCpp/Statement.h>
#include <SQLiteCpp/Transaction.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "store/store_error.h"

namespace berth {

/// One numbered step of the schema: it turns a file of `version - 1` into one of `version`.
struct Migration {
  int version = 0;
  std::string_view sql;
};

/// store/migrations/*.sql in order, embedded at build time.
std::span<const Migration> migrations();

/// PRAGMA application_id of a berth database: "brth" in ASCII.
inline constexpr std::int32_t kApplicationId = 0x62727468;

/// How names of copies end, which are not changed by whoever looks into them.
inline constexpr const char* kBackupSuffix = ".backup";
/// The copy of the database `path` from before it was migrated from `version`.
std::string migration_backup(const std::string& path, int version);

/// One use of a cached statement: parameters in order, then rows. Resets it when it goes out of scope, so
/// at most one Query of one SQL text may live at a time.
class Query {
 public:
  explicit Query(SQLite::Statement& statement) : statement_(statement) {}
  Query(const Query&) = delete;
  Query& operator=(const Query&) = delete;
  ~Query();

  Query& bind(std::int64_t value);
  Query& bind(const std::string& value);
  Query& bind(std::string_view value) { return bind(std::string(value)); }
  /// Without a copy: `value` stays as it is until this Query is gone.
  Query& bind_in_place(const std::string& value);
  Query& bind_null();
  template <typename Value>
  Query& bind(const std::optional<Value>& value) {
    return value ? bind(*value) : bind_null();
  }

  bool step() { return statement_.executeStep(); }
  /// Runs a statement that gives no rows; returns how many rows it changed.
  int execute() { return statement_.exec(); }

  bool is_null(int column) const { return statement_.isColumnNull(column); }
  std::int64_t integer(int column) const { return statement_.getColumn(column).getInt64(); }
  double real(int column) const { return statement_.getColumn(column).getDouble(); }
  std::string text(int column) const { return statement_.getColumn(column).getString(); }
  std::optional<std::int64_t> optional_integer(int column) const;

 private:
  SQLite::Statement& statement_;
  int next_parameter_ = 1;
};

class Database {
 public:
  enum class Missing { create, refuse };

  /// Opens `path` (":memory:" is private) and brings it to the newest of `steps`. Null when the file is
  /// missing and `missing` is refuse. A file that this process cannot write is opened for reading only
  /// when `missing` is refuse: writing to it then fails. With refuse a file of the newest version stays as it
  /// is until it is written to; a copy (kBackupSuffix) of an older version is refused.
  static std::unique_ptr<Database> open(const std::string& path, Missing missing,
                                        std::span<const Migration> steps = migrations());

  const std::string& path() const { return path_; }
  int version();
  /// For a process that writes all day: more pages in memory, and a log that is moved into the file seldom.
  void tune_for_service();

  /// The write-ahead log into the file: it is whole then without the log, which is empty.
  void move_log();

  /// A prepared statement, made at its first use and kept. `sql` must outlive the Database (a literal).
  Query query(const char* sql);
  /// The rowid of the row that was inserted last.
  std::int64_t last_row() const { return connection_.getLastInsertRowid(); }
  /// A statement whose text is made at run time; not kept.
  SQLite::Statement prepare(const std::string& sql) { return SQLite::Statement(connection_, sql); }

  /// What a commit survives when write() returns.
  enum class Durability {
    power_cut,     ///< synchronous=FULL: it is on the disk
    process_kill,  ///< synchronous=NORMAL: no fdatasync; a power cut may undo it, but never damage the file
  };

  /// Runs `body` in one transaction that holds the write lock from its start, so that it never has to be
  /// repeated; an exception rolls back. Turns SQLite::Exception into StoreError.
  template <typename Body>
  auto write(Body&& body, Durability durability = Durability::power_cut) {
    return translate_errors([&] {
      if (is_together_ && !undoes_parts_) {
        return std::forward<Body>(body)();
      }
      if (is_together_) {
        const SavePoint point(*this);
        auto result = std::forward<Body>(body)();
        point.keep();
        return result;
      }
      set_durability(durability);
      Transaction transaction(*this);
      auto result = std::forward<Body>(body)();
      transaction.commit();
      return result;
    });
  }
  /// write() without its commit: what it reads and compiles is there for the next one. Waits for nobody's
  /// lock.
  void rehearse(const std::function<void()>& body, Durability durability);
  /// Runs `body`, within which each write() is a part of one durable transaction instead of its own. A
  /// write() that throws undoes its own part; unless `undoes_parts`, its exception must leave `body`.
  void together(const std::function<void()>& body, bool undoes_parts);
  /// A durable transaction that changes nothing.
  void probe();
  /// Puts on the disk what was committed with Durability::process_kill. Uses no connection.
  void sync();
  /// Runs `body`, turning SQLite::Exception into StoreError. One SELECT is one snapshot.
  template <typename Body>
  auto read(Body&& body) {
    return translate_errors(std::forward<Body>(body));
  }

  /// read() whose SELECTs all see one snapshot. Outside a transaction.
  template <typename Body>
  auto read_at_once(Body&& body) {
    return translate_errors([&] {
      const SQLite::Transaction snapshot(connection_);
      return std::forward<Body>(body)();
    });
  }

  /// Makes the file shorter by at most `most` unused pages, but keeps a twentieth of it and at least 1,000
  /// pages for what will be written next; returns by how many. Outside a transaction, or as a part of one.
  std::size_t give_back_pages(std::size_t most);

  /// PRAGMA integrity_check and foreign_key_check; empty when sound.
  std::string check_integrity();

 private:
  /// Holds the write lock from its start; rolls back unless committed. Its statements are prepared once.
  class Transaction {
   public:
    explicit Transaction(Database& database) : database_(database) {
      database_.query("BEGIN IMMEDIATE").execute();
    }
    ~Transaction();
    Transaction(const Transaction&) = delete;
    Transaction& operator=(const Transaction&) = delete;
    void commit() {
      database_.query("COMMIT").execute();
      committed_ = true;
    }

   private:
    Database& database_;
    bool committed_ = false;
  };

  /// Undoes what was written since it was made, unless kept. They are not nested.
  class SavePoint {
   public:
    explicit SavePoint(Database& database) : database_(database) {
      database_.query("SAVEPOINT part").execute();
    }
    ~SavePoint();
    SavePoint(const SavePoint&) = delete;
    SavePoint& operator=(const SavePoint&) = delete;
    void keep() const {
      database_.query("RELEASE part").execute();
      kept_ = true;
    }

   private:
    Database& database_;
    mutable bool kept_ = false;
  };

  void set_durability(Durability durability);
  Database(std::string path, const std::string& uri, int flags);

  template <typename Body>
  auto translate_errors(Body&& body) {
    try {
      return body();
    } catch (const SQLite::Exception& error) {
      throw_store_error(path_, error);
    }
  }

  bool identify();
  void configure(Missing missing, bool is_empty);
  void migrate(std::span<const Migration> steps);
  int refuse_newer(int found, int newest) const;
  void back_up(int version);
  std::string log_file();

  std::string path_;
  bool read_only_ = false;
  Durability durability_ = Durability::power_cut;
  bool is_together_ = false;
  bool undoes_parts_ = true;
  SQLite::Database connection_;
  std::unordered_map<const char*, std::unique_ptr<SQLite::Statement>> statements_;  // dies before connection_
};

}  // namespace berth
