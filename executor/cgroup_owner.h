// Whose the cgroups of a killed berth are: the file that its jobs were to be recorded in, named by an
// extended attribute of its v2 tree (xattr(7)). cgroup v1 alone has none: there nothing is known.
//
// A path says nothing elsewhere: the attribute also tells where it was looked up, so that nobody takes a file
// for gone whom it is only hidden from. Internal to the cgroup code.
#pragma once

#include <string>

#include "executor/cgroup.h"

namespace berth {

/// Names `file`, which is there, as the owner of a tree. Does nothing where that cannot be written.
void set_owner_file(int tree_directory, const std::string& file) noexcept;
/// Who the owner of a tree is, for one whose own file is `own`.
LeftoverOwner owner_of(int tree_directory, const std::string& own) noexcept;

}  // namespace berth
