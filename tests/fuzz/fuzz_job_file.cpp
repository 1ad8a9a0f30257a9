// Any text is a job file or a list of faults. What is taken reads back from its canonical form and passes the
// checks of the command line; what is refused is refused in printable lines.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "schemas/job_file.h"

namespace {

void require(bool condition) {
  if (!condition) {
    std::abort();
  }
}

void check_faults(const berth::InputError& error) {
  require(!error.faults().empty());
  for (const berth::InputFault& fault : error.faults()) {
    require(!fault.message.empty());
    // The parser's own checks are to find whatever the schema would.
    require(!fault.message.starts_with("does not match the schema"));
    for (const char c : fault.to_string()) {
      require(static_cast<unsigned char>(c) >= 0x20U && c != '\x7f');
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(data, data + size);
  try {
    for (const berth::JobSpec& spec : berth::parse_job_file(text, "job.json", "/jobs")) {
      require(berth::parse_job_file(berth::to_json_text(spec), "again", "/elsewhere").at(0) == spec);
      require(berth::validated(spec, "command line") == spec);
    }
  } catch (const berth::InputError& error) {
    check_faults(error);
  }
  return 0;
}
