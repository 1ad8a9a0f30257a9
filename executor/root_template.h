// The template: the read-only tree that every sandbox starts from.
#pragma once

namespace berth {

/// Where a step of preparing failed.
struct TemplateError {
  const char* step;
  int error_number;
};

/// Makes a mount namespace with the template in it. With `pivot` the template becomes "/", and
/// drop_host_tree() must follow; without it (no privilege over the host's mounts) the host's tree stays "/"
/// and the template becomes the working directory. Called in the launcher only. Throws TemplateError.
void enter_root_template(bool pivot);

/// Then nothing else of the host stays. Takes a while on a busy machine: the kernel waits for all CPUs (an
/// RCU grace period). Throws TemplateError.
void drop_host_tree();

}  // namespace berth
