# libspey-cuda.so, when nvcc is found. nvcc is called directly, not as a CMake language: a machine without it builds the
# rest, and the plug-in is linked by the C compiler, so that it depends on libc alone (static CUDA runtime).

find_program(SPEY_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin PATHS /usr/local/cuda/bin)
if(SPEY_NVCC)
    get_filename_component(cuda_home ${SPEY_NVCC} REALPATH)
    get_filename_component(cuda_home ${cuda_home}/../.. ABSOLUTE)
    find_path(SPEY_CUDA_INCLUDE cuda_runtime_api.h HINTS ${cuda_home}/include
              ${cuda_home}/targets/x86_64-linux/include)
    find_path(SPEY_CUBLASLT_INCLUDE cublasLt.h HINTS ${SPEY_CUDA_INCLUDE})
    find_library(SPEY_CUDART cudart_static HINTS ${cuda_home}/lib64 ${cuda_home}/lib
                 ${cuda_home}/targets/x86_64-linux/lib)
endif()
foreach(part SPEY_NVCC SPEY_CUDA_INCLUDE SPEY_CUBLASLT_INCLUDE SPEY_CUDART)
    if(NOT ${part})
        message(STATUS "CUDA plug-in: left out (${part} was not found)")
        return()
    endif()
endforeach()
execute_process(COMMAND ${SPEY_NVCC} --version OUTPUT_VARIABLE spey_nvcc_version ERROR_QUIET)
string(REGEX REPLACE ".*release ([0-9.]+).*" "\\1" spey_nvcc_version "${spey_nvcc_version}")
if(NOT spey_nvcc_version VERSION_GREATER_EQUAL 12.8)
    message(STATUS "CUDA plug-in: left out (nvcc 12.8 or newer is needed, ${SPEY_NVCC} is ${spey_nvcc_version})")
    return()
endif()
message(STATUS "CUDA plug-in: ${SPEY_NVCC} ${spey_nvcc_version}")

# The targets of a file are in its name. _sm80 runs everywhere, newer cards than these compile its PTX at first use.
set(spey_cuda_sm80 -gencode=arch=compute_80,code=[sm_80,compute_80] -gencode=arch=compute_89,code=sm_89
    -gencode=arch=compute_90a,code=sm_90a)
set(spey_cuda_sm90 -gencode=arch=compute_90a,code=sm_90a)
option(SPEY_CUDA_SM90_ONLY "Compile CUDA kernels for Hopper alone, in a third of the time" OFF)
if(SPEY_CUDA_SM90_ONLY)
    set(spey_cuda_sm80 ${spey_cuda_sm90})
endif()

# Kernels that spill or use local memory do not build. The cubins stay beside the objects for tools/check-ptxas.
set(spey_nvcc_flags -c -std=c++17 -O3 -lineinfo --compress-mode=size --keep -Werror all-warnings
    -Xptxas -warn-spills,-warn-lmem-usage,-Werror
    -Xcompiler -fPIC,-fvisibility=hidden,-fno-threadsafe-statics,-fno-exceptions,-fno-rtti,-Wall,-Wextra,-Werror
    -I${CMAKE_SOURCE_DIR}/src -I${CMAKE_SOURCE_DIR}/include)

# spey_cuda_object(OUT src/x_sm80.cu): compile one file.
function(spey_cuda_object out source)
    string(REGEX MATCH "_(sm[0-9]+)\\.cu$" matched ${source})
    set(object ${CMAKE_BINARY_DIR}/cuda/${source}.o)
    set(keep ${object}.keep) # one for each file: they are compiled side by side
    file(MAKE_DIRECTORY ${keep})
    add_custom_command(OUTPUT ${object}
        COMMAND ${SPEY_NVCC} ${spey_nvcc_flags} ${spey_cuda_${CMAKE_MATCH_1}}
                --keep-dir ${keep} -MD -MF ${object}.d -o ${object} ${CMAKE_SOURCE_DIR}/${source}
        COMMAND find ${keep} -type f -not -name *.cubin -delete
        DEPENDS ${CMAKE_SOURCE_DIR}/${source} DEPFILE ${object}.d
        COMMENT "nvcc ${source}" VERBATIM)
    set_source_files_properties(${object} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
    set(${out} ${object} PARENT_SCOPE)
endfunction()

set(spey_cuda_sources
    src/kernels/argmax/argmax_sm80.cu
    src/kernels/attention/attention_latent_sm90.cu
    src/kernels/attention/attention_mma_e4m3_sm80.cu
    src/kernels/attention/attention_mma_i8_sm80.cu
    src/kernels/attention/attention_mma_sm80.cu
    src/kernels/attention/attention_sm80.cu
    src/kernels/attention/attention_wgmma_sm90.cu
    src/kernels/causal_conv/causal_conv_sm80.cu
    src/kernels/concat/concat_sm80.cu
    src/kernels/elementwise/add_sm80.cu
    src/kernels/elementwise/unary_sm80.cu
    src/kernels/embed/embed_sm80.cu
    src/kernels/expert_linear/expert_linear_sm80.cu
    src/kernels/random_normal/random_normal_sm80.cu
    src/kernels/random_words/random_words_sm80.cu
    src/kernels/gather/gather_sm80.cu
    src/kernels/gemm/gemm_finish_sm80.cu
    src/kernels/gemm/gemm_narrow_sm80.cu
    src/kernels/gemm/gemv_sm80.cu
    src/kernels/gemm/gemv_sm90.cu
    src/kernels/gemm/gemm_quantize_sm80.cu
    src/kernels/glu/glu_sm80.cu
    src/kernels/kv_append/kv_append_sm80.cu
    src/kernels/link/link_sm80.cu
    src/kernels/norm/norm_sm80.cu
    src/kernels/patch/patch_sm80.cu
    src/kernels/rope/rope_sm80.cu
    src/kernels/rope/rope_append_sm80.cu
    src/kernels/rope/rope_table_sm80.cu
    src/kernels/route/route_sm80.cu
    src/kernels/sample/sample_sm80.cu
    src/kernels/selective_scan/selective_scan_sm80.cu)
foreach(source ${spey_cuda_sources})
    spey_cuda_object(object ${source})
    list(APPEND spey_cuda_objects ${object})
endforeach()

add_library(spey_cuda SHARED ${spey_cuda_objects}
    src/base/alloc.c src/base/status.c
    src/kernels/cuda/cublaslt.c src/kernels/cuda/cuda_backend.c src/kernels/cuda/cuda_memory.c
    src/kernels/gemm/gemm_cublaslt.c src/kernels/gemm/gemm_plans.c src/kernels/gemm/gemm_tune.c)
target_include_directories(spey_cuda SYSTEM PRIVATE ${SPEY_CUDA_INCLUDE} ${SPEY_CUBLASLT_INCLUDE})
target_link_libraries(spey_cuda PRIVATE spey_flags ${SPEY_CUDART} Threads::Threads ${CMAKE_DL_LIBS} rt m)
set(spey_cuda_map ${CMAKE_SOURCE_DIR}/src/kernels/cuda/plugin.map)
target_link_options(spey_cuda PRIVATE -Wl,--version-script=${spey_cuda_map} -Wl,-z,defs)
set_target_properties(spey_cuda PROPERTIES
    OUTPUT_NAME spey-cuda LINK_DEPENDS ${spey_cuda_map} LINKER_LANGUAGE C LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}
    SKIP_BUILD_RPATH OFF BUILD_RPATH "\$ORIGIN;/usr/local/cuda/lib64") # where cuBLASLt may lie
# Programs in tests/FOLDER find the plug-in by their RUNPATH; spey itself lies beside it.
set(CMAKE_BUILD_RPATH "\$ORIGIN/../..")

# Checks: without a GPU the compiled kernels and the plug-in's manners, with one everything (tools/check-gpu).
add_executable(checkcuda tests/device/checkcuda.c)
target_link_libraries(checkcuda PRIVATE spey_flags spey_base m ${CMAKE_DL_LIBS})
set_target_properties(checkcuda PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests/device)
add_dependencies(checkcuda spey_cuda)
add_executable(benchattention tests/device/benchattention.c)
target_link_libraries(benchattention PRIVATE spey_flags spey_base m ${CMAKE_DL_LIBS})
set_target_properties(benchattention PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests/device)
# What breaks a device, for one test.
spey_cuda_object(object tests/device/fault_sm80.cu)
add_library(spey_fault SHARED ${object})
target_link_libraries(spey_fault PRIVATE ${SPEY_CUDART} Threads::Threads ${CMAKE_DL_LIBS} rt)
set_target_properties(spey_fault PROPERTIES OUTPUT_NAME spey-fault LINKER_LANGUAGE C
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests/device)
add_executable(checkfaults tests/device/checkfaults.c tests/runtime/tiny_engine.c)
target_link_libraries(checkfaults PRIVATE spey_flags spey_runtime)
set_target_properties(checkfaults PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests/device)
add_dependencies(checkfaults spey_cuda spey_fault)
enable_testing()
find_package(Python3 COMPONENTS Interpreter)
if(Python3_FOUND)
    add_test(NAME cuda/ptxas COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/tools/check-ptxas
             --self-test ${SPEY_NVCC} --rules ${CMAKE_SOURCE_DIR}/tools/ptxas-rules.txt ${CMAKE_BINARY_DIR}/cuda)
endif()
add_test(NAME cuda/exports COMMAND ${CMAKE_NM} -D --defined-only --format=posix $<TARGET_FILE:spey_cuda>)
set_tests_properties(cuda/exports PROPERTIES PASS_REGULAR_EXPRESSION "^spey_backend_plugin T [^\n]*\n$")
# 30 MiB for all targets is what a plug-in may have.
add_test(NAME cuda/size COMMAND find $<TARGET_FILE:spey_cuda> -size -31457281c)
set_tests_properties(cuda/size PROPERTIES PASS_REGULAR_EXPRESSION "libspey-cuda")
add_test(NAME cuda/plugin COMMAND checkcuda $<TARGET_FILE:spey_cuda>)
add_test(NAME cuda/faults COMMAND checkfaults $<TARGET_FILE:spey_fault>)
