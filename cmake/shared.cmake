# libspey.so: the public API. Everything is compiled with hidden visibility; include/spey/*.h marks what is exported.
# Third-party libraries are the system's shared ones here: some of Debian's archives are not position-independent.
set(own base tensor graph text engine device kernels runtime)
set(archives)
foreach(name ${own})
    list(APPEND archives $<TARGET_FILE:spey_${name}>)
endforeach()
file(GENERATE OUTPUT ${CMAKE_BINARY_DIR}/shared.c CONTENT "/* libspey.so is made of archives. */\ntypedef int spey_empty;\n")
add_library(spey_shared SHARED ${CMAKE_BINARY_DIR}/shared.c)
add_dependencies(spey_shared spey_runtime)
target_link_libraries(spey_shared PRIVATE -Wl,--whole-archive $<TARGET_FILE:spey_runtime> $<TARGET_FILE:spey_base>
    -Wl,--no-whole-archive -Wl,--start-group ${archives} -Wl,--end-group -Wl,--gc-sections
    PkgConfig::dep_pcre2 PkgConfig::dep_utf8proc PkgConfig::dep_jansson PkgConfig::dep_nettle Threads::Threads m
    ${CMAKE_DL_LIBS})
set_target_properties(spey_shared PROPERTIES OUTPUT_NAME spey VERSION ${PROJECT_VERSION} SOVERSION 0
    LINK_DEPENDS "${archives}" LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
include(GNUInstallDirs)
install(TARGETS spey spey_shared)
install(DIRECTORY include/spey DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
