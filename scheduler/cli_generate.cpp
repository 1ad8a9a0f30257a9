#include "scheduler/cli_generate.h"

#include <cerrno>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>

#include "scheduler/command.h"
#include "scheduler/completion.h"
#include "scheduler/listing.h"
#include "scheduler/manual_page.h"
#include "scheduler/reference_page.h"

namespace berth {
namespace {

void write_text_file(const std::string& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (!file) {
    throw std::system_error(errno == 0 ? EIO : errno, std::generic_category(), "write " + path);
  }
}

void write_manual_pages(const std::string& directory) {
  write_text_file(directory + "/berth.1", program_manual_page());
  write_text_file(directory + "/berthd.8", daemon_manual_page());
  for (const CommandSpec* command : commands()) {
    if (!command->hidden) {
      write_text_file(directory + "/berth-" + std::string(command->name) + ".1",
                      command_manual_page(*command));
    }
  }
}

}  // namespace

int run_generate(const CommandLine& line) {
  if (line.operands.size() == 2) {
    const std::string& what = line.operands[0];
    const std::string& path = line.operands[1];
    if (what == "man") {
      write_manual_pages(path);
      return 0;
    }
    if (what == "completion") {
      write_text_file(path, bash_completion(listing_column_names()));
      return 0;
    }
    if (what == "reference") {
      write_text_file(path, reference_page());
      return 0;
    }
  }
  throw UsageError(line.command, "berth generate takes man, completion or reference, and where to write");
}

}  // namespace berth
