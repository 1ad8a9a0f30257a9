# The command line (berth_cli), and the program berth, which alone sees both the executor and the store.

# spdlog as headers inside one source file: its shared library would bring libfmt too, and every library
# costs at each start of the program.
add_library(berth_spdlog INTERFACE)
target_compile_definitions(berth_spdlog INTERFACE FMT_HEADER_ONLY=1 SPDLOG_FMT_EXTERNAL=1)

berth_library(berth_cli
  batch_script.cpp
  options.cpp
  command_line.cpp
  command_job.cpp
  completion.cpp
  daemon_options.cpp
  help.cpp
  help_text.cpp
  log.cpp
  manual_page.cpp
  database_path.cpp
  detach_keys.cpp
  job_output.cpp
  job_streams.cpp
  output_files.cpp
  progress.cpp
  reference_page.cpp
  run_jobs_input.cpp
  run_report.cpp
  cli_check.cpp
  cli_version.cpp
)
# berth_executor: for output_files and database_path alone, which open what a job could have changed; berth_scheduler: for small_file.
target_link_libraries(berth_cli PUBLIC berth_schemas PRIVATE Boost::program_options berth_spdlog berth_executor berth_scheduler)
set_source_files_properties(manual_page.cpp cli_version.cpp PROPERTIES
  COMPILE_DEFINITIONS "BERTH_VERSION=\"${PROJECT_VERSION}\"")
# What berth-runner takes of this library, which would bring it all the others.
set_source_files_properties(log.cpp output_files.cpp PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)

# Linked statically the program starts in a fraction of the time that the dynamic linker takes for these
# libraries. libudev (through hwloc) and the C library have no archive that may be used so.
option(BERTH_STATIC_LIBRARIES "Link the libraries that berth uses statically where there is an archive" ON)
if(BERTH_STATIC_LIBRARIES AND NOT BERTH_SANITIZE)
  # berth_use_archive(TARGET ARCHIVE [LIBRARIES that the archive needs…])
  function(berth_use_archive target archive)
    find_library(BERTH_ARCHIVE_${archive} NAMES lib${archive}.a)
    if(BERTH_ARCHIVE_${archive} AND TARGET ${target})
      get_target_property(type ${target} TYPE)
      if(type STREQUAL "INTERFACE_LIBRARY")
        set_target_properties(${target} PROPERTIES INTERFACE_LINK_LIBRARIES "${BERTH_ARCHIVE_${archive}};${ARGN}")
      else()
        set_target_properties(${target} PROPERTIES IMPORTED_LOCATION "${BERTH_ARCHIVE_${archive}}"
                              IMPORTED_LOCATION_RELEASE "${BERTH_ARCHIVE_${archive}}"
                              IMPORTED_LOCATION_NONE "${BERTH_ARCHIVE_${archive}}"
                              INTERFACE_LINK_LIBRARIES "${ARGN}")
      endif()
    endif()
  endfunction()
  find_library(BERTH_LIBUDEV NAMES udev libudev.so.1)  # the latter without its -dev package
  if(BERTH_LIBUDEV)
    berth_use_archive(PkgConfig::HWLOC hwloc ${BERTH_LIBUDEV} m)
  endif()
  berth_use_archive(SQLite::SQLite3 sqlite3 m ${CMAKE_DL_LIBS})
  berth_use_archive(Boost::program_options boost_program_options Boost::headers)
endif()

add_executable(berth main.cpp api_client.cpp cli_attach.cpp cli_daemon.cpp cli_doctor.cpp cli_exec.cpp
  cli_generate.cpp cli_query.cpp cli_run.cpp cli_run_preparation.cpp cli_submit.cpp cli_top.cpp executor_launcher.cpp side_thread.cpp stream_client.cpp
  terminal.cpp terminal_bridge.cpp)
target_link_libraries(berth PRIVATE berth_runner_protocol berth_cli berth_listing berth_scheduler berth_store berth_executor
                      berth_settings berth_warnings nlohmann_json::nlohmann_json Threads::Threads)
if(BERTH_STATIC_LIBRARIES AND NOT BERTH_SANITIZE)
  target_link_options(berth PRIVATE -static-libstdc++ -static-libgcc)
endif()

# The daemon, and the process that holds its jobs. The runner is small: it knows neither SQLite nor Boost.
berth_library(berth_runner_protocol runner_protocol.cpp record_spool.cpp stream_frame.cpp stream_request.cpp)
target_link_libraries(berth_runner_protocol PUBLIC berth_schemas PRIVATE nlohmann_json::nlohmann_json)
add_executable(berth-runner runner_main.cpp runner.cpp stream_attachments.cpp runner_streams.cpp stream_session.cpp)
target_link_libraries(berth-runner PRIVATE berth_runner_protocol berth_cli berth_scheduler berth_executor
                      berth_settings berth_warnings nlohmann_json::nlohmann_json)

add_executable(berthd berthd_main.cpp api.cpp api_attach.cpp api_metrics.cpp api_routes.cpp api_server.cpp api_streams.cpp backup_keeper.cpp committer.cpp config_check.cpp
  daemon.cpp daemon_queue.cpp daemon_requests.cpp daemon_runners.cpp metrics_page.cpp runner_link.cpp number_mark.cpp sample_gatherer.cpp side_thread.cpp socket_place.cpp stream_hand_over.cpp submission.cpp user_turns.cpp)
target_link_libraries(berthd PRIVATE berth_runner_protocol berth_cli berth_listing berth_scheduler berth_store
                      berth_executor berth_settings berth_warnings nlohmann_json::nlohmann_json Boost::headers
                      Threads::Threads)
set_target_properties(berthd PROPERTIES UNITY_BUILD_BATCH_SIZE 5)  # Beast and Asio: two CPUs, two halves
file(RELATIVE_PATH berth_libexec ${CMAKE_INSTALL_FULL_SBINDIR} ${CMAKE_INSTALL_FULL_LIBEXECDIR}/berth)
string(REGEX REPLACE "^\\.\\./" "" berth_libexec ${berth_libexec})
target_compile_definitions(berthd PRIVATE BERTH_VERSION="${PROJECT_VERSION}" BERTH_LIBEXEC="${berth_libexec}")
# Asio's headers through other headers of Boost 1.74.
target_compile_options(berthd PRIVATE -Wno-conversion -Wno-sign-conversion -Wno-useless-cast -Wno-shadow)
if(BERTH_STATIC_LIBRARIES AND NOT BERTH_SANITIZE)
  target_link_options(berthd PRIVATE -static-libstdc++ -static-libgcc)
  target_link_options(berth-runner PRIVATE -static-libstdc++ -static-libgcc)
endif()

# The manual pages and the completion, made by the program from its own tables.
set(berth_generated ${CMAKE_CURRENT_BINARY_DIR}/generated)
add_custom_command(
  OUTPUT ${berth_generated}/berth.1 ${berth_generated}/berthd.8 ${berth_generated}/completion/berth
  COMMAND ${CMAKE_COMMAND} -E make_directory ${berth_generated}/completion
  COMMAND berth generate man ${berth_generated}
  COMMAND berth generate completion ${berth_generated}/completion/berth
  DEPENDS berth
  VERBATIM)
add_custom_target(berth_generated ALL DEPENDS ${berth_generated}/berth.1 ${berth_generated}/completion/berth)

install(TARGETS berth RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS berthd RUNTIME DESTINATION ${CMAKE_INSTALL_SBINDIR})
install(TARGETS berth-runner RUNTIME DESTINATION ${CMAKE_INSTALL_LIBEXECDIR}/berth)
install(DIRECTORY ${berth_generated}/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 FILES_MATCHING PATTERN "*.1"
        PATTERN completion EXCLUDE)
install(FILES ${berth_generated}/berthd.8 DESTINATION ${CMAKE_INSTALL_MANDIR}/man8)
install(FILES ${berth_generated}/completion/berth
        DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
# In the folders that they have here, so that their links to each other hold.
install(DIRECTORY ${PROJECT_SOURCE_DIR}/docs ${PROJECT_SOURCE_DIR}/examples DESTINATION ${CMAKE_INSTALL_DOCDIR})
foreach(document README.md executor/README.md scheduler/README.md store/README.md schemas/README.md scheduler/job_queue.h schemas/job.schema.json
        schemas/berthd.schema.json schemas/berthd.openapi.json)
  cmake_path(GET document PARENT_PATH folder)
  install(FILES ${PROJECT_SOURCE_DIR}/${document} DESTINATION ${CMAKE_INSTALL_DOCDIR}/${folder})
endforeach()
