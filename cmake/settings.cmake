# Two interface targets, linked privately by every target of ours; no global flags.
#   berth_settings  language level, definitions, sanitizers
#   berth_warnings  warnings, as errors where BERTH_WERROR

add_library(berth_settings INTERFACE)
target_compile_features(berth_settings INTERFACE cxx_std_20)
target_include_directories(berth_settings INTERFACE ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR})
target_compile_definitions(berth_settings INTERFACE _GNU_SOURCE)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
if(BERTH_ASSERTIONS)
  # Crash points: tests can make berthd die at named points (scheduler/crash_point.h), or have it believe
  # in more CPUs (scheduler/imagined_cpus.h).
  target_compile_definitions(berth_settings INTERFACE _GLIBCXX_ASSERTIONS BERTH_CRASH_POINTS)
endif()
if(BERTH_SANITIZE)
  target_compile_options(berth_settings INTERFACE -fsanitize=${BERTH_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(berth_settings INTERFACE -fsanitize=${BERTH_SANITIZE})
endif()
if(BERTH_FUZZ)
  target_compile_options(berth_settings INTERFACE -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all)
  target_link_options(berth_settings INTERFACE -fsanitize=address,undefined)
endif()

# Relocations take a hundredth of their space: less to read at each start.
include(CheckLinkerFlag)
check_linker_flag(CXX "LINKER:-z,pack-relative-relocs" BERTH_PACKS_RELOCATIONS)
if(BERTH_PACKS_RELOCATIONS)
  target_link_options(berth_settings INTERFACE "LINKER:-z,pack-relative-relocs")
endif()

add_library(berth_warnings INTERFACE)
target_compile_options(berth_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wnon-virtual-dtor -Wold-style-cast
  -Wcast-qual -Wundef $<$<CXX_COMPILER_ID:GNU>:-Wduplicated-cond -Wlogical-op -Wuseless-cast
    -Wno-restrict>  # g++ 12 at -O3 warns falsely of "text" + std::string (GCC bug 105651)
 )
if(BERTH_WERROR)
  target_compile_options(berth_warnings INTERFACE -Werror)
endif()

# Most presets compile several sources as one, which reads the headers of Boost and JSON once for them all and takes half
# the time; in dev a changed source is compiled alone. So no two sources of a target may give one name to different
# things, in anonymous namespaces either. A target with large sources sets UNITY_BUILD_BATCH_SIZE itself.
if(CMAKE_UNITY_BUILD)
  set(CMAKE_UNITY_BUILD_BATCH_SIZE 10)
  # g++ takes the sources that it reads so for headers.
  target_compile_options(berth_warnings INTERFACE $<$<CXX_COMPILER_ID:GNU>:-Wno-subobject-linkage>)
endif()

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  set(CMAKE_C_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()

# berth_library(NAME SOURCES… ) declares a static library with our settings.
function(berth_library name)
  add_library(${name} STATIC ${ARGN})
  target_link_libraries(${name} PUBLIC berth_settings PRIVATE berth_warnings)
endfunction()
