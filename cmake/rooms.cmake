# A room is a folder of src/: one static library, and the rooms it may use. The order of src/CMakeLists.txt is the
# order of the flow; tools/check_layers holds the includes against it.

add_library(scalebits_options INTERFACE)
target_compile_options(scalebits_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wno-missing-field-initializers
                       # Float loops keep their order; only traps and errno, which nobody reads, are given up.
                       -fno-math-errno -fno-trapping-math)
# libtorch brings a libgomp of the same name, which then serves both: there is one pool.
target_compile_options(scalebits_options INTERFACE -fopenmp)
target_include_directories(scalebits_options INTERFACE ${PROJECT_SOURCE_DIR}/src)
if(SCALEBITS_SEARCH)
  target_link_libraries(scalebits_options INTERFACE fmt::fmt)
else()
  add_library(scalebits_fmt STATIC cmake/fmt.cpp)
  target_link_libraries(scalebits_options INTERFACE scalebits_fmt)
endif()
target_link_libraries(scalebits_options INTERFACE nlohmann_json::nlohmann_json Threads::Threads)
if(SCALEBITS_SANITIZE)
  target_compile_options(scalebits_options INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=undefined
                         -fno-omit-frame-pointer)
  target_link_options(scalebits_options INTERFACE -fsanitize=address,undefined)
endif()

# Headers that take longest to read are read once for all rooms, and for all tests: without, ATen alone takes ten seconds
# a file. `make sanitize` goes without (CMAKE_DISABLE_PRECOMPILE_HEADERS), and so finds a file that forgot to include one.
set(SCALEBITS_HEADERS <algorithm> <filesystem> <functional> <map> <memory> <mutex> <optional> <span> <string> <vector>
                      <fmt/format.h> <nlohmann/json.hpp>)
function(scalebits_headers NAME)
  add_library(${NAME} OBJECT ${PROJECT_SOURCE_DIR}/cmake/headers.cpp)
  target_link_libraries(${NAME} PRIVATE scalebits_options ${ARGN})
  target_precompile_headers(${NAME} PRIVATE ${SCALEBITS_HEADERS})
endfunction()
scalebits_headers(scalebits_room_headers)
scalebits_headers(scalebits_test_headers GTest::gtest)
target_precompile_headers(scalebits_test_headers PRIVATE <gtest/gtest.h>)
set(SCALEBITS_TEST_HEADERS scalebits_test_headers)
if(SCALEBITS_SEARCH)
  scalebits_headers(scalebits_torch_room_headers scalebits_torch)
  target_precompile_headers(scalebits_torch_room_headers PRIVATE <ATen/ATen.h>)
  scalebits_headers(scalebits_torch_test_headers scalebits_torch GTest::gtest)
  target_precompile_headers(scalebits_torch_test_headers PRIVATE <ATen/ATen.h> <gtest/gtest.h>)
  list(APPEND SCALEBITS_TEST_HEADERS scalebits_torch_test_headers)
endif()
# As programs are compiled, or GCC would not take them there.
set_target_properties(${SCALEBITS_TEST_HEADERS} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
foreach(HEADERS ${SCALEBITS_TEST_HEADERS})
  target_compile_options(${HEADERS} PRIVATE -fPIE -O1)
endforeach()

# Takes them for TARGET, of KIND room or test, which uses the rooms that follow.
function(scalebits_reuse_headers TARGET KIND)
  get_property(TORCH_ROOMS GLOBAL PROPERTY SCALEBITS_TORCH_ROOMS)
  set(HEADERS scalebits_${KIND}_headers)
  foreach(ROOM ${ARGN})
    if(ROOM IN_LIST TORCH_ROOMS)
      set(HEADERS scalebits_torch_${KIND}_headers)
    endif()
  endforeach()
  target_precompile_headers(${TARGET} REUSE_FROM ${HEADERS})
endfunction()

# scalebits_room(NAME SOURCES a.cpp … [USES room …] [LIBRARIES target …]): headers of a room are public.
function(scalebits_room NAME)
  cmake_parse_arguments(ROOM "" "" "SOURCES;USES;LIBRARIES" ${ARGN})
  add_library(scalebits_${NAME} STATIC ${ROOM_SOURCES})
  target_link_libraries(scalebits_${NAME} PUBLIC scalebits_options ${ROOM_LIBRARIES})
  foreach(USED ${ROOM_USES})
    target_link_libraries(scalebits_${NAME} PUBLIC scalebits_${USED})
  endforeach()
  scalebits_reuse_headers(scalebits_${NAME} room ${NAME})
endfunction()

# scalebits_test(NAME SOURCE file.cpp USES room … [LABEL fast]): one GoogleTest binary, run by ctest under its label.
function(scalebits_test NAME)
  cmake_parse_arguments(TEST "" "SOURCE;LABEL" "USES;LIBRARIES" ${ARGN})
  if(NOT TEST_LABEL)
    set(TEST_LABEL fast)
  endif()
  add_executable(${NAME} ${TEST_SOURCE})
  target_link_libraries(${NAME} PRIVATE scalebits_options ${TEST_LIBRARIES} GTest::gtest_main)
  target_compile_definitions(${NAME} PRIVATE SCALEBITS_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  foreach(USED ${TEST_USES})
    target_link_libraries(${NAME} PRIVATE scalebits_${USED})
  endforeach()
  target_compile_options(${NAME} PRIVATE -O1)  # what is tested lies in the rooms
  scalebits_reuse_headers(${NAME} test ${TEST_USES})
  add_test(NAME ${NAME} COMMAND ${NAME})
  # tools/run_tests counts the single cases in these reports.
  set_tests_properties(${NAME} PROPERTIES LABELS ${TEST_LABEL}
                       ENVIRONMENT "GTEST_OUTPUT=xml:${PROJECT_BINARY_DIR}/gtest/${NAME}.xml;GOMP_SPINCOUNT=20000")
endfunction()
