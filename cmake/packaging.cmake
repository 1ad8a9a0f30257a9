# A Debian package of what is built: scripts/package. Its files are below /usr, wherever cmake --install puts them.
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
foreach(script postinst prerm postrm)
  configure_file(packaging/${script} packaging/${script} @ONLY FILE_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE
                 GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
endforeach()
# Filled in when it is installed, and below the prefix, as cmake --install --prefix may name another one.
foreach(folder SBINDIR DOCDIR)
  install(CODE "
    set(CMAKE_INSTALL_FULL_${folder} \"${CMAKE_INSTALL_${folder}}\")
    cmake_path(ABSOLUTE_PATH CMAKE_INSTALL_FULL_${folder} BASE_DIRECTORY \"\${CMAKE_INSTALL_PREFIX}\")")
endforeach()
install(CODE "configure_file(\"${CMAKE_CURRENT_SOURCE_DIR}/packaging/berthd.service.in\"
  \"${CMAKE_CURRENT_BINARY_DIR}/packaging/berthd.service\" @ONLY)")
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/packaging/berthd.service DESTINATION lib/systemd/system)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME berth)
set(CPACK_PACKAGE_VENDOR "berth")
set(CPACK_PACKAGE_CONTACT "berth maintainers <root@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY ${PROJECT_DESCRIPTION})
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS "passwd, libnftables1")  # the library is loaded at run time
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "passt")
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA
    "${CMAKE_CURRENT_BINARY_DIR}/packaging/postinst;${CMAKE_CURRENT_BINARY_DIR}/packaging/prerm;${CMAKE_CURRENT_BINARY_DIR}/packaging/postrm")
include(CPack)
