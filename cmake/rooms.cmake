# A room is a folder of src/: one static library, and the rooms it may use. The order of src/CMakeLists.txt is the
# order of the flow; tools/check_layers holds the includes against it.

add_library(scalebits_options INTERFACE)
target_compile_options(scalebits_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wno-missing-field-initializers
                       # Float loops keep their order; only traps and errno, which nobody reads, are given up.
                       -fno-math-errno -fno-trapping-math)
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

# scalebits_room(NAME SOURCES a.cpp … [USES room …] [LIBRARIES target …]): headers of a room are public.
function(scalebits_room NAME)
  cmake_parse_arguments(ROOM "" "" "SOURCES;USES;LIBRARIES" ${ARGN})
  add_library(scalebits_${NAME} STATIC ${ROOM_SOURCES})
  target_link_libraries(scalebits_${NAME} PUBLIC scalebits_options ${ROOM_LIBRARIES})
  foreach(USED ${ROOM_USES})
    target_link_libraries(scalebits_${NAME} PUBLIC scalebits_${USED})
  endforeach()
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
  add_test(NAME ${NAME} COMMAND ${NAME})
  # tools/run_tests counts the single cases in these reports.
  set_tests_properties(${NAME} PROPERTIES LABELS ${TEST_LABEL}
                       ENVIRONMENT "GTEST_OUTPUT=xml:${PROJECT_BINARY_DIR}/gtest/${NAME}.xml;GOMP_SPINCOUNT=20000")
endfunction()
