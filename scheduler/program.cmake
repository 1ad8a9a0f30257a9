# The command line (berth_cli), and the program berth, which alone sees both the executor and the store.

option(BERTH_STATIC_LIBRARIES "Link the libraries that berth uses statically where there is an archive" ON)

# spdlog as a header and inside one source file: its shared library would bring libfmt too, and every
# library costs at each start of the program.
add_library(berth_spdlog INTERFACE)
target_compile_definitions(berth_spdlog INTERFACE FMT_HEADER_ONLY=1 SPDLOG_FMT_EXTERNAL=1)
get_target_property(spdlog_includes spdlog::spdlog_header_only INTERFACE_INCLUDE_DIRECTORIES)
if(spdlog_includes)
  target_include_directories(berth_spdlog SYSTEM INTERFACE ${spdlog_includes})
endif()

berth_library(berth_cli
  options.cpp
  command_line.cpp
  command_job.cpp
  help.cpp
  log.cpp
  job_output.cpp
  output_files.cpp
  progress.cpp
  cli_check.cpp
  cli_version.cpp
)
target_link_libraries(berth_cli PUBLIC berth_schemas PRIVATE Boost::program_options berth_spdlog)
set_source_files_properties(help.cpp cli_version.cpp PROPERTIES
  COMPILE_DEFINITIONS "BERTH_VERSION=\"${PROJECT_VERSION}\"")
