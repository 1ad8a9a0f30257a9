# Writes OUTPUT, a C++ source that holds the text of INPUT as berth::FUNCTION(). Run as a script:
#   cmake -DINPUT=… -DOUTPUT=… -DHEADER=schemas/job_file.h -DFUNCTION=job_schema_text -P embed_text.cmake
file(READ ${INPUT} text)
# Compilers need not take a literal over 64 KiB, so it is cut; adjacent literals are joined again.
set(literals "")
string(LENGTH "${text}" length)
set(at 0)
while(at LESS length)
  string(SUBSTRING "${text}" ${at} 8000 part)
  string(APPEND literals "R\"~~~(${part})~~~\"\n")
  math(EXPR at "${at} + 8000")
endwhile()
file(WRITE ${OUTPUT} "// Made from ${INPUT} at build time.
#include \"${HEADER}\"

namespace berth {

std::string_view ${FUNCTION}() {
  static constexpr char kText[] =
${literals};
  return {kText, sizeof kText - 1};
}

}  // namespace berth
")
