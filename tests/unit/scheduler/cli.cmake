# The command line: tables, parsing, help, streams and reports; and what is generated from the tables.
berth_test(test_cli
  unit/scheduler/detach_keys_test.cpp
  unit/scheduler/test_options.cpp
  unit/scheduler/test_command_job.cpp
  unit/scheduler/test_job_output.cpp
  unit/scheduler/test_output_files.cpp
  unit/scheduler/test_run_report.cpp
)
target_link_libraries(test_cli PRIVATE berth_cli berth_warnings nlohmann_json::nlohmann_json)

if(TARGET berth_generated)
  add_test(NAME test_generated_pages
           COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/unit/scheduler/generated_test.sh
                   ${PROJECT_BINARY_DIR}/scheduler/generated)
  set_tests_properties(test_generated_pages PROPERTIES SKIP_RETURN_CODE 77 LABELS unit TIMEOUT 60)
  if(NOT BERTH_SANITIZE)  # there only the unit tests are built
    add_test(NAME test_installed
             COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/unit/scheduler/installed_test.sh ${PROJECT_BINARY_DIR})
    set_tests_properties(test_installed PROPERTIES LABELS unit TIMEOUT 120 RESOURCE_LOCK install)
  endif()
  add_test(NAME docs_name_every_option
           COMMAND ${PROJECT_SOURCE_DIR}/scripts/docs --check --program $<TARGET_FILE:berth>)
  set_tests_properties(docs_name_every_option PROPERTIES LABELS unit TIMEOUT 60)
endif()
