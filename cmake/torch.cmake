# libtorch out of PyPI's torch wheel (tools/setup puts it under .cache/): headers, libtorch_cpu and libc10, and the
# two CUDA runtime libraries that libtorch_cpu of a CUDA wheel wants at load time.
if(NOT SCALEBITS_TORCH)
  file(GLOB SCALEBITS_TORCH_FOUND ${PROJECT_SOURCE_DIR}/.cache/venv-torch/lib/python3*/site-packages/torch)
  list(LENGTH SCALEBITS_TORCH_FOUND SCALEBITS_TORCH_COUNT)
  if(NOT SCALEBITS_TORCH_COUNT EQUAL 1)
    message(FATAL_ERROR "libtorch not found: run tools/setup, or give -DSCALEBITS_TORCH=<folder with include/ and lib/>, "
                        "or build only the running half with -DSCALEBITS_SEARCH=OFF")
  endif()
  set(SCALEBITS_TORCH ${SCALEBITS_TORCH_FOUND})
endif()
file(GLOB SCALEBITS_TORCH_CUDA_LIBS ${SCALEBITS_TORCH}/../nvidia/*/lib)

add_library(scalebits_torch INTERFACE)
# After the system's own folders: the wheel brings another fmt, whose headers would not match the fmt that is linked.
target_compile_options(scalebits_torch INTERFACE "SHELL:-idirafter ${SCALEBITS_TORCH}/include"
                       "SHELL:-idirafter ${SCALEBITS_TORCH}/include/torch/csrc/api/include")
# libtorch_cpu registers its operators when it is loaded, so it must stay linked though no symbol is wanted at link time.
target_link_options(scalebits_torch INTERFACE -Wl,--no-as-needed -L${SCALEBITS_TORCH}/lib
                    -Wl,-rpath,${SCALEBITS_TORCH}/lib -Wl,--allow-shlib-undefined)
foreach(FOLDER ${SCALEBITS_TORCH_CUDA_LIBS})
  target_link_options(scalebits_torch INTERFACE -Wl,-rpath,${FOLDER} -Wl,-rpath-link,${FOLDER})
endforeach()
target_link_libraries(scalebits_torch INTERFACE torch_cpu c10)
