// From what SQLite and the kernel report to a StoreError that says what to do. Internal to store/.
#pragma once

#include <string>

namespace SQLite {
class Exception;
}

namespace berth {

/// Throws StoreError: `path`: what failed and the remedy for SQLite's (extended) result code.
[[noreturn]] void throw_store_error(const std::string& path, const SQLite::Exception& error);

/// Throws StoreError for a system call of ours: `path`: `operation` failed because of `error_number`,
/// and the remedy.
[[noreturn]] void throw_store_error(const std::string& path, const std::string& operation, int error_number);

}  // namespace berth
