# What the native front-end stands on: nghttp2, and OpenSSL for its TLS, each an interface library,
# gslice_nghttp2 and gslice_openssl, if it is here. Archives come before shared libraries: an
# extension that carries them runs where they are not installed, and beside any other version.

# Links a program with libraries to a shared object, as the extension is: an archive that was not
# made for that, or that needs more than itself, is no use. Tried again at each configuration, so
# that what was installed since the last one is found.
function(gslice_try_link result headers program)
  try_compile(links SOURCE_FROM_CONTENT probe.cpp "${program}"
              CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${headers}" COMPILE_DEFINITIONS -fPIC
              LINK_OPTIONS -shared -Wl,-z,defs -Wl,--exclude-libs,ALL LINK_LIBRARIES ${ARGN}
              NO_CACHE)
  set(${result} ${links} PARENT_SCOPE)
endfunction()

# Debian's nghttp2 is made for executables (-fPIE), and all that keeps it out of a shared object is
# `stderr`, in a function for debugging. Copies of the archives that have one of ours instead.
function(gslice_adapt_archives result)
  set(adapted "")
  foreach(archive ${ARGN})
    get_filename_component(name ${archive} NAME)
    set(copy ${CMAKE_CURRENT_BINARY_DIR}/adapted/${name})
    file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/adapted)
    execute_process(COMMAND ${CMAKE_OBJCOPY} --redefine-sym stderr=gslice_archive_stderr
                            ${archive} ${copy} COMMAND_ERROR_IS_FATAL ANY)
    list(APPEND adapted ${copy})
  endforeach()
  set(${result} ${adapted} PARENT_SCOPE)
endfunction()

set(GSLICE_ARCHIVE_STDERR ${CMAKE_CURRENT_LIST_DIR}/archive_stderr.cpp)

# Makes ${target} of the named libraries, and sets ${target}_KIND to how they are linked.
function(gslice_find_library target header names program)
  find_path(${target}_HEADERS ${header})
  mark_as_advanced(${target}_HEADERS)
  set(${target}_KIND "" PARENT_SCOPE)
  if(NOT ${target}_HEADERS)
    return()
  endif()
  set(headers ${${target}_HEADERS})
  set(program "#include <${header}>\n${program}\n")
  set(system Threads::Threads ${CMAKE_DL_LIBS})
  foreach(suffix a so)
    set(${suffix} "")
    foreach(name ${names})
      find_library(${target}_${name}_${suffix} lib${name}.${suffix})
      mark_as_advanced(${target}_${name}_${suffix})
      list(APPEND ${suffix} ${${target}_${name}_${suffix}})
    endforeach()
  endforeach()

  set(kind "")
  if(NOT a MATCHES "NOTFOUND")
    gslice_try_link(links ${headers} "${program}" ${a} ${system})
    if(NOT links AND CMAKE_OBJCOPY)
      gslice_adapt_archives(a ${a})
      file(READ ${GSLICE_ARCHIVE_STDERR} ours)
      gslice_try_link(links ${headers} "${ours}${program}" ${a} ${system})
      if(links AND NOT TARGET gslice_archive_stderr)
        add_library(gslice_archive_stderr STATIC ${GSLICE_ARCHIVE_STDERR})
      endif()
      list(APPEND a gslice_archive_stderr)
    endif()
    if(links)
      set(kind static)
      set(libraries ${a} ${system})
    endif()
  endif()
  if(NOT kind AND NOT so MATCHES "NOTFOUND")
    gslice_try_link(links ${headers} "${program}" ${so} ${system})
    if(links)
      set(kind shared)
      set(libraries ${so} ${system})
    endif()
  endif()
  if(kind)
    add_library(${target} INTERFACE)
    target_include_directories(${target} SYSTEM INTERFACE ${headers})
    target_link_libraries(${target} INTERFACE ${libraries})
    set(${target}_KIND ${kind} PARENT_SCOPE)
  endif()
endfunction()

set(GSLICE_GRPC_SERVER AUTO CACHE STRING "Build the native front-end: AUTO (if nghttp2 is here), ON, OFF")
set_property(CACHE GSLICE_GRPC_SERVER PROPERTY STRINGS AUTO ON OFF)

if(GSLICE_GRPC_SERVER)  # AUTO is as good as true, see cmake --help-command if
  gslice_find_library(gslice_nghttp2 nghttp2/nghttp2.h nghttp2 "
    const void* probe(nghttp2_session* session) {
      return nghttp2_session_terminate_session(session, NGHTTP2_NO_ERROR) ? 0 : nghttp2_version(0);
    }")
endif()
if(TARGET gslice_nghttp2)
  gslice_find_library(gslice_openssl openssl/ssl.h "ssl;crypto" "
    static_assert(OPENSSL_VERSION_NUMBER >= 0x10101000L);
    SSL_CTX* probe() { return SSL_CTX_new(TLS_server_method()); }")
endif()

if(TARGET gslice_openssl)
  message(STATUS "native front-end: nghttp2 (${gslice_nghttp2_KIND}), TLS by OpenSSL (${gslice_openssl_KIND})")
elseif(TARGET gslice_nghttp2)
  message(STATUS "native front-end: nghttp2 (${gslice_nghttp2_KIND}), no TLS: OpenSSL is not here (Debian: libssl-dev)")
elseif(GSLICE_GRPC_SERVER STREQUAL "AUTO")
  message(STATUS "native front-end: not built, nghttp2 is not here (Debian: libnghttp2-dev)")
elseif(GSLICE_GRPC_SERVER)
  message(FATAL_ERROR "GSLICE_GRPC_SERVER is ON, and nghttp2 is not here (Debian: libnghttp2-dev)")
else()
  message(STATUS "native front-end: not built, GSLICE_GRPC_SERVER is OFF")
endif()
