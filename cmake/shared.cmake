# libspey.so: the public API. Everything is compiled with hidden visibility; include/spey/*.h marks what is exported.
add_library(spey_shared SHARED ${CMAKE_SOURCE_DIR}/src/base/version.c)
target_link_libraries(spey_shared PRIVATE spey_flags
    -Wl,--whole-archive spey_runtime spey_base -Wl,--no-whole-archive
    spey_kernels spey_device spey_engine spey_graph spey_text spey_tensor
    -Wl,--exclude-libs,libpcre2-8.a:libutf8proc.a:libjansson.a:libnettle.a)
set_target_properties(spey_shared PROPERTIES OUTPUT_NAME spey VERSION ${PROJECT_VERSION} SOVERSION 0
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
include(GNUInstallDirs)
install(TARGETS spey spey_shared)
install(DIRECTORY include/spey DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
