# The CUDA toolkit, if it is wanted and here: SCALEBITS_CUDA=ON|OFF|AUTO sets SCALEBITS_WITH_CUDA. No card is needed to
# build. Kernels are compiled for three architectures and as PTX for what comes later; sm_90a code runs on Hopper alone.
set(SCALEBITS_CUDA AUTO CACHE STRING "Build the CUDA kernels: ON, OFF, or AUTO, where nvcc is found")
set(SCALEBITS_CUDA_ARCHITECTURES "80-real;89-real;90a-real;90-virtual" CACHE STRING "What the CUDA kernels are built for")
set_property(CACHE SCALEBITS_CUDA PROPERTY STRINGS ON OFF AUTO)
set(SCALEBITS_WITH_CUDA OFF)
if(SCALEBITS_CUDA STREQUAL "AUTO" OR SCALEBITS_CUDA)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(SCALEBITS_WITH_CUDA ON)
  elseif(NOT SCALEBITS_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "SCALEBITS_CUDA=ON, but no nvcc was found; put it on the PATH or give -DCMAKE_CUDA_COMPILER")
  endif()
endif()

if(SCALEBITS_WITH_CUDA)
  set(CMAKE_CUDA_ARCHITECTURES ${SCALEBITS_CUDA_ARCHITECTURES})
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc 13 speaks it
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  endif()
  find_package(CUDAToolkit REQUIRED)
  # Prints what each kernel takes and fails the build when one spills registers.
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${PROJECT_SOURCE_DIR}/cmake/nvcc_resources ${CCACHE})
endif()

# The kernels of src/kernels/cuda: one library of .cu files, which includes no room of ours but that folder.
function(scalebits_cuda_kernels TARGET)
  add_library(${TARGET} STATIC ${ARGN})
  target_include_directories(${TARGET} PRIVATE ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(${TARGET} PUBLIC CUDA::cudart_static)
  set_target_properties(${TARGET} PROPERTIES CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON CUDA_EXTENSIONS OFF)
  target_compile_options(${TARGET} PRIVATE -Xptxas=-v -Xcompiler=-Wall,-Wextra --compress-mode=size)
endfunction()
