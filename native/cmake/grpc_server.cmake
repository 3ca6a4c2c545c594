# What the native front-end stands on: nghttp2, and OpenSSL for its TLS, each an interface library,
# gslice_nghttp2 and gslice_openssl, if it is here. Archives come before shared libraries: an
# extension that carries them runs where they are not installed, and beside any other version.

# The program is linked to a shared object, as the extension is, for an archive that was not made
# for that, or that needs more libraries, is no use. Tried again at each configuration, so that what
# was installed since the last one is found.
function(gslice_find_library target header names program)
  set(${target}_KIND "" PARENT_SCOPE)
  find_path(${target}_HEADERS ${header})
  mark_as_advanced(${target}_HEADERS)
  if(NOT ${target}_HEADERS)
    return()
  endif()
  foreach(suffix a so)
    set(libraries "")
    foreach(name ${names})
      find_library(${target}_${name}_${suffix} lib${name}.${suffix})
      mark_as_advanced(${target}_${name}_${suffix})
      list(APPEND libraries ${${target}_${name}_${suffix}})
    endforeach()
    if(libraries MATCHES "NOTFOUND")
      continue()
    endif()
    list(APPEND libraries Threads::Threads ${CMAKE_DL_LIBS})
    try_compile(links SOURCE_FROM_CONTENT ${target}.cpp "#include <${header}>\n${program}\n"
                CMAKE_FLAGS -DINCLUDE_DIRECTORIES=${${target}_HEADERS} COMPILE_DEFINITIONS -fPIC
                LINK_OPTIONS -shared -Wl,-z,defs -Wl,--exclude-libs,ALL LINK_LIBRARIES ${libraries}
                NO_CACHE)
    if(links)
      add_library(${target} INTERFACE)
      target_include_directories(${target} SYSTEM INTERFACE ${${target}_HEADERS})
      target_link_libraries(${target} INTERFACE ${libraries})
      set(${target}_KIND ${suffix} PARENT_SCOPE)
      return()
    endif()
  endforeach()
endfunction()

set(GSLICE_GRPC_SERVER AUTO CACHE STRING "Build the native front-end: AUTO (if nghttp2 is here), ON, OFF")
set_property(CACHE GSLICE_GRPC_SERVER PROPERTY STRINGS AUTO ON OFF)

set(gslice_nghttp2_KIND "")
set(gslice_openssl_KIND "")
if(GSLICE_GRPC_SERVER)  # AUTO is as good as true, see cmake --help-command if
  gslice_find_library(gslice_nghttp2 nghttp2/nghttp2.h nghttp2 "
    const void* probe(nghttp2_session* session) {
      return nghttp2_session_terminate_session(session, NGHTTP2_NO_ERROR) ? 0 : nghttp2_version(0);
    }")
  gslice_find_library(gslice_openssl openssl/ssl.h "ssl;crypto" "
    static_assert(OPENSSL_VERSION_NUMBER >= 0x10101000L);
    SSL_CTX* probe() { return SSL_CTX_new(TLS_server_method()); }")
endif()

set(GSLICE_LIBRARY_KINDS_a "static")
set(GSLICE_LIBRARY_KINDS_so "shared")
if(TARGET gslice_nghttp2 AND TARGET gslice_openssl)
  message(STATUS "native front-end: nghttp2 (${GSLICE_LIBRARY_KINDS_${gslice_nghttp2_KIND}}), "
                 "TLS by OpenSSL (${GSLICE_LIBRARY_KINDS_${gslice_openssl_KIND}})")
elseif(TARGET gslice_nghttp2)
  message(STATUS "native front-end: nghttp2 (${GSLICE_LIBRARY_KINDS_${gslice_nghttp2_KIND}}), "
                 "without TLS: OpenSSL is not here (Debian: libssl-dev)")
elseif(GSLICE_GRPC_SERVER STREQUAL "AUTO")
  message(STATUS "native front-end: not built, nghttp2 is not here (Debian: libnghttp2-dev)")
elseif(GSLICE_GRPC_SERVER)
  message(FATAL_ERROR "GSLICE_GRPC_SERVER is ON, and nghttp2 is not here (Debian: libnghttp2-dev)")
else()
  message(STATUS "native front-end: not built, GSLICE_GRPC_SERVER is OFF")
endif()
