# Turns migrations/NNNN_*.sql into one C++ source. Run with -DOUTPUT=FILE -DDIRECTORY=DIR; the numbers must be
# 0001, 0002 … without a gap, so that a version is also an index.
file(GLOB files ${DIRECTORY}/*.sql)
list(SORT files)
set(entries "")
set(expected 0)
foreach(file ${files})
  get_filename_component(name ${file} NAME)
  math(EXPR expected "${expected} + 1")
  if(NOT name MATCHES "^0*([1-9][0-9]*)_" OR NOT CMAKE_MATCH_1 EQUAL expected)
    message(FATAL_ERROR "${file}: expected migration number ${expected}: number migrations 0001, 0002 … without gaps")
  endif()
  file(READ ${file} text)
  # Statements only: comments would be stored inside the schema and parsed at every start.
  string(REGEX REPLACE "(^|\n)--[^\n]*" "\\1" text "${text}")
  string(REGEX REPLACE "\n\n+" "\n" text "${text}")
  string(APPEND entries "    {${expected}, R\"SQL(${text})SQL\"},\n")
endforeach()
file(WRITE ${OUTPUT}.new "// Generated from store/migrations; edit those.
#include \"store/database.h\"

namespace berth {

std::span<const Migration> migrations() {
  static constexpr Migration kMigrations[] = {
${entries}  };
  return kMigrations;
}

}  // namespace berth
")
file(RENAME ${OUTPUT}.new ${OUTPUT})
