// The job's view of the file system, built with the new mount API on descriptors (fsopen(2), open_tree(2),
// move_mount(2), mount_setattr(2)), and with one mount(2) where that does the same as six of those calls.
//
// The launcher's template is a read-only tree: the host's top-level directories, an empty /proc of a dead PID
// namespace (the kernel lets a user namespace mount procfs only where a fully visible one is already), a
// small /sys and /dev. Here comes what belongs to one job: its own /proc with masks, one private tmpfs that
// serves /tmp, /var/tmp, /run, /dev/shm, /home and /root together (one size for all), and its devpts.
// All of it lies on mounts of a more privileged mount namespace, which are locked: what they cover cannot
// be uncovered (mount_namespaces(7)).
#include <asm/stat.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/stat.h>
#include <sys/syscall.h>

#include <initializer_list>

#include "executor/init/freestanding.h"
#include "executor/init/raw_syscall.h"
#include "executor/init/sandbox.h"

namespace berth::init {
namespace {

constexpr int kCloexec = 02000000;
constexpr unsigned kOpenTreeClone = 1;
constexpr unsigned kOpenTreeCloexec = kCloexec;
constexpr unsigned kRecursive = 0x8000;  // AT_RECURSIVE
constexpr unsigned kEmptyPath = 0x1000;  // AT_EMPTY_PATH
constexpr unsigned kNoFollow = 0x100;    // AT_SYMLINK_NOFOLLOW
constexpr int kDetach = 2;               // MNT_DETACH
constexpr int kCurrent = -100;           // AT_FDCWD
constexpr int kMsPrivate = 1 << 18;
constexpr long kEnoent = -2;
constexpr long kEexist = -17;
constexpr long kEnotdir = -20;
constexpr long kEisdir = -21;
constexpr long kEinval = -22;
constexpr long kEloop = -40;
constexpr long kEstale = -116;

constexpr size_t kPathMax = 4096;  // PATH_MAX: the kernel takes none of that size, and has no link of it

constexpr unsigned kPlainAttributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;

/// The directories that the private tmpfs serves, and their modes.
struct PrivateDirectory {
  const char* name;    // within the tmpfs
  const char* target;  // within the root; one that the root lacks is left out
  unsigned mode;
};
constexpr PrivateDirectory kPrivateDirectories[] = {
    {"var-tmp", "/var/tmp", 01777}, {"run", "/run", 0755},   {"shm", "/dev/shm", 01777},
    {"home", "/home", 0755},        {"root", "/root", 0700}, {"tmp", "/tmp", 01777},
};
constexpr size_t kPrivateCount = sizeof kPrivateDirectories / sizeof kPrivateDirectories[0];

long clone_tree(const char* path, unsigned flags = 0) {
  return sys(SYS_open_tree, kCurrent, path, kOpenTreeClone | kOpenTreeCloexec | flags);
}

long attach(long tree, const char* target) {
  return sys(SYS_move_mount, tree, "", kCurrent, target, MOVE_MOUNT_F_EMPTY_PATH);
}

long set_attributes(long tree, uint64_t set, unsigned flags) {
  mount_attr attributes{};
  attributes.attr_set = set;
  attributes.propagation = kMsPrivate;
  return sys(SYS_mount_setattr, tree, "", kEmptyPath | flags, &attributes, sizeof attributes);
}

struct Option {
  const char* key;
  const char* value;  // null: a flag
};

/// A detached mount of a new file system instance; negative errno on failure.
template <size_t Count>
long new_mount(const char* type, const Option (&options)[Count], unsigned attributes) {
  const long context = sys(SYS_fsopen, type, FSOPEN_CLOEXEC);
  if (context < 0) {
    return context;
  }
  for (const Option& option : options) {
    if (option.key == nullptr) {
      continue;
    }
    const long result = option.value == nullptr
                            ? sys(SYS_fsconfig, context, FSCONFIG_SET_FLAG, option.key, 0, 0)
                            : sys(SYS_fsconfig, context, FSCONFIG_SET_STRING, option.key, option.value, 0);
    if (result < 0) {
      return result;
    }
  }
  const long created = sys(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, 0, 0, 0);
  if (created < 0) {
    return created;
  }
  const long tree = sys(SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes);
  sys(SYS_close, context);
  return tree;
}

bool is_directory(long fd) {
  struct statx status {};
  if (sys(SYS_statx, fd, "", kEmptyPath, 0x1 /* STATX_TYPE */, &status) < 0) {
    return false;
  }
  return (status.stx_mode & 0170000) == 0040000;
}

/// mkdir -p of every missing directory above the last component; then the mount point itself.
long make_mount_point(const char* path, bool directory) {
  char partial[kPathMax];
  for (size_t index = 1; path[index] != '\0' && index < sizeof partial; ++index) {
    if (path[index] == '/') {
      copy(partial, path, index + 1);
      const long made = sys(SYS_mkdirat, kCurrent, partial, 0755);
      if (made < 0 && made != kEexist && made != -30 /* EROFS */ && made != -13 /* EACCES */) {
        return made;
      }
    }
  }
  if (directory) {
    const long made = sys(SYS_mkdirat, kCurrent, path, 0755);
    return made == kEexist ? 0 : made;
  }
  const long file = sys(SYS_openat, kCurrent, path, O_CREAT | O_EXCL | O_WRONLY | kCloexec, 0644);
  if (file >= 0) {
    sys(SYS_close, file);
    return 0;
  }
  return file == kEexist ? 0 : file;
}

bool exists(const char* path) {
  return sys(SYS_faccessat, kCurrent, path, 0, 0) == 0;
}

/// The folder of init's own files: the script, and those that go to /etc (mount_network_file()).
constexpr const char* kOwnFolder = "/run/berth";
constexpr const char* kOwnFiles[] = {kOwnFolder, sandbox::kScriptPath, "/run/berth/hosts",
                                     "/run/berth/resolv.conf"};
/// What is at /run is not the job's own: its image's, or mounted there.
bool run_is_foreign;
/// Where it is then, behind links; empty: at /run.
char real_run[sandbox::kPathSize];

/// What is a mount point's place to those who come after it.
enum class Place { other, run, own_file };

Place place_of(const char* path) {
  constexpr const char* kRun = "/run";
  const char* rest = path;
  for (const char* run = real_run[0] != '\0' ? real_run : kRun; *run != '\0'; ++run, ++rest) {
    if (*rest != *run) {
      return Place::other;
    }
  }
  for (const char* file : kOwnFiles) {
    if (equal(rest, file + length(kRun))) {
      return Place::own_file;
    }
  }
  return *rest == '\0' ? Place::run : Place::other;
}

/// Where a mount point has turned out to be.
void read_path(long point, char (&path)[sandbox::kPathSize], Step step, const char* target) {
  char digits[24];
  char link[sandbox::kPathSize] = "/proc/self/fd/";
  append(link, decimal(point, digits), sizeof link);
  path[expect(sys(SYS_readlinkat, kCurrent, link, path, sizeof path - 1), step, target)] = '\0';
}

/// Links are followed, magic ones are not.
long open_point(const char* path) {
  open_how how{};
  how.flags = O_PATH | kCloexec;
  how.resolve = RESOLVE_NO_MAGICLINKS;
  return sys(SYS_openat2, kCurrent, path, &how, sizeof how);
}

void find_real_run() {
  const long run = open_point("/run");
  if (run >= 0) {
    read_path(run, real_run, Step::mount_private, "/run");
    sys(SYS_close, run);
  }
}

/// Whether it is what a job file may not name as a target: "/", or in /proc, /sys or /dev. Leaves of `path`
/// the first component.
bool is_reserved(char (&path)[sandbox::kPathSize]) {
  size_t top = 1;
  while (path[top] != '/' && path[top] != '\0') {
    ++top;
  }
  path[top] = '\0';
  for (const char* reserved : {"/", "/proc", "/sys", "/dev"}) {
    if (equal(path, reserved)) {
      return true;
    }
  }
  return false;
}

/// Moves a detached mount to `target`, which is made when it can be. Symbolic links in `target` are resolved
/// inside the job's root, which is already "/"; magic links are not followed, and ELOOP is said of those that
/// lead to what is_reserved(). A folder goes on a folder alone, and anything else on what is none: the
/// kernel's EINVAL is told as ENOTDIR or EISDIR.
Place place(long tree, const char* target, Step step) {
  if (!exists(target)) {
    expect(make_mount_point(target, is_directory(tree)), step, target);
  }
  const long point = expect(open_point(target), step, target);
  Place where = Place::other;
  if (step != Step::mount_device) {
    char path[sandbox::kPathSize];
    read_path(point, path, step, target);
    where = place_of(path);
    if (is_reserved(path)) {
      fail(step, kEloop, target);
    }
  }
  const long moved =
      sys(SYS_move_mount, tree, "", point, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
  if (moved == kEinval && is_directory(tree) != is_directory(point)) {
    fail(step, is_directory(tree) ? kEnotdir : kEisdir, target);
  }
  expect(moved, step, target);
  sys(SYS_close, point);
  sys(SYS_close, tree);
  return where;
}

// ---- the private tmpfs ----

/// Makes the tmpfs and returns detached mounts of its directories, in the order of kPrivateDirectories. It is
/// attached at /tmp of the template: only an attached mount can be cloned before Linux 6.15. There it stays,
/// covered by its own directory "tmp": taking it away would cost an RCU grace period (namespace_unlock() in
/// fs/namespace.c).
void make_private(long (&trees)[kPrivateCount]) {
  const Option options[] = {{"mode", "0755"}};
  const long tmpfs = expect(new_mount("tmpfs", options, kPlainAttributes), Step::mount_private, "tmpfs");
  expect(attach(tmpfs, "/tmp"), Step::mount_private, "/tmp");
  for (size_t index = 0; index < kPrivateCount; ++index) {
    const PrivateDirectory& directory = kPrivateDirectories[index];
    // As it says: the template's umask is 0.
    expect(sys(SYS_mkdirat, tmpfs, directory.name, directory.mode), Step::mount_private, directory.name);
    trees[index] = expect(sys(SYS_open_tree, tmpfs, directory.name, kOpenTreeClone | kOpenTreeCloexec),
                          Step::mount_private, directory.name);
  }
  sys(SYS_close, tmpfs);
}

void attach_private(long (&trees)[kPrivateCount], const char* home, bool own_root) {
  for (size_t index = 0; index < kPrivateCount; ++index) {
    const long result = attach(trees[index], kPrivateDirectories[index].target);
    // A link of an own root (/var/tmp to /tmp in small images) stays one: it leads to what that root has
    // there.
    const bool is_link = result == -22 /* EINVAL */ && own_root;
    if (result < 0 && result != kEnoent && !is_link) {
      fail(Step::mount_private, result, kPrivateDirectories[index].target);
    }
    if (result < 0 && place_of(kPrivateDirectories[index].target) == Place::run) {
      run_is_foreign = true;
    }
    sys(SYS_close, trees[index]);
  }
  if (!exists(home)) {
    const long made = make_mount_point(home, true);
    if (made < 0 && !own_root) {  // an own root may lack /home: the job has no home then
      fail(Step::mount_private, made, home);
    }
    sys(SYS_fchmodat, kCurrent, home, 0700);
  }
}

// ---- /proc ----

/// Bind of `source` over `target` when the target exists. By mount(2), which looks at the target first: to
/// throw a clone away that was not attached costs an RCU grace period.
void cover(const char* source, const char* target) {
  const long result = sys(SYS_mount, source, target, 0, MS_BIND, 0);
  if (result != kEnoent || exists(target)) {
    expect(result, Step::mask_proc, target);
  }
}

void make_read_only(const char* path) {
  const long tree = clone_tree(path);
  if (tree == kEnoent) {
    return;
  }
  expect(tree, Step::mask_proc, path);
  expect(set_attributes(tree, MOUNT_ATTR_RDONLY | kPlainAttributes | MOUNT_ATTR_NOEXEC, 0), Step::mask_proc,
         path);
  expect(attach(tree, path), Step::mask_proc, path);
  sys(SYS_close, tree);
}

void mount_proc() {
  expect(sys(SYS_mount, "proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0), Step::mount_proc,
         "/proc");
  // File modes already deny all of these to a user that is not the host's root; the masks hold even if one
  // mode were wrong.
  for (const char* file :
       {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sysrq-trigger", "/proc/kmsg"}) {
    cover("/dev/null", file);
  }
  // Whoever may write to /proc/pressure has triggers there, and each descriptor of one takes the kernel a
  // grace period to close: thousands of them outlive any kill for minutes.
  for (const char* directory : {"/proc/acpi", "/proc/scsi", "/proc/pressure"}) {
    cover("/dev/mqueue", directory);  // empty and read-only in the template
  }
  for (const char* directory : {"/proc/sys", "/proc/bus", "/proc/fs", "/proc/irq"}) {
    make_read_only(directory);
  }
}

// ---- the root ----

/// Makes the attached mount `tree` the root and lets go of the old one, stacked below it: pivot_root(2),
/// "pivot_root(".", ".")".
void pivot_into(long tree) {
  expect(sys(SYS_fchdir, tree), Step::pivot_root, "fchdir");
  expect(sys(SYS_pivot_root, ".", "."), Step::pivot_root, "pivot_root");
  expect(sys(SYS_umount2, ".", kDetach), Step::pivot_root, "umount");
  expect(sys(SYS_chdir, "/"), Step::pivot_root, "chdir");
  sys(SYS_close, tree);
}

/// From the host's tree into a clone of the template, which is the working directory.
void pivot_into_template() {
  const long tree = expect(clone_tree(".", kRecursive), Step::pivot_root, "template");
  expect(attach(tree, "/"), Step::pivot_root, "template");
  pivot_into(tree);
}

/// Overlay of one directory with its upper layer in the private tmpfs (attached at /tmp); negative errno when
/// the kernel cannot.
long overlay_of(const char* lower, const char* upper_name) {
  char upper[sandbox::kPathSize] = "/tmp/upper-";
  char work[sandbox::kPathSize] = "/tmp/work-";
  append(upper, upper_name, sizeof upper);
  append(work, upper_name, sizeof work);
  expect(sys(SYS_mkdirat, kCurrent, upper, 0755), Step::mount_overlay, upper);
  expect(sys(SYS_mkdirat, kCurrent, work, 0700), Step::mount_overlay, work);
  const Option options[] = {
      {"lowerdir", lower}, {"upperdir", upper}, {"workdir", work}, {"userxattr", nullptr}};
  return new_mount("overlay", options, kPlainAttributes);
}

struct DirectoryEntry {  // getdents64(2)
  uint64_t inode;
  int64_t next;
  unsigned short size;
  unsigned char type;
  char name[];
};

bool is_private_or_special(const char* name) {
  for (const char* other : {".", "..", "proc", "sys", "dev", "tmp", "run", "home", "root"}) {
    if (equal(name, other)) {
      return true;
    }
  }
  return false;
}

/// The template's top-level directories are mounts of their own, and an overlay does not cross mounts: one
/// overlay for each.
void overlay_top_level() {
  const long root =
      expect(sys(SYS_openat, kCurrent, "/", O_DIRECTORY | kCloexec, 0), Step::mount_overlay, "/");
  alignas(8) char buffer[4096];
  long size;
  while ((size = sys(SYS_getdents64, root, buffer, sizeof buffer)) > 0) {
    for (long position = 0; position < size;) {
      const auto* entry = reinterpret_cast<const DirectoryEntry*>(buffer + position);
      position += entry->size;
      if (entry->type != 4 /* DT_DIR */ || is_private_or_special(entry->name)) {
        continue;
      }
      char path[sandbox::kPathSize] = "/";
      append(path, entry->name, sizeof path);
      const long tree = overlay_of(path, entry->name);
      if (tree == -22 /* EINVAL */) {
        continue;  // other file systems are mounted below it, which are locked here: it stays read-only
      }
      expect(tree, Step::mount_overlay, path);
      expect(attach(tree, path), Step::mount_overlay, path);
      sys(SYS_close, tree);
    }
  }
  sys(SYS_close, root);
}

/// isolation.root: the given directory becomes "/", with the template's /dev and /sys.
void enter_own_root(const Setup& setup, long own_root) {
  const long dev = expect(clone_tree("/dev", kRecursive), Step::mount_dev, "/dev");
  const long system = expect(clone_tree("/sys", kRecursive), Step::mount_root, "/sys");
  const long proc = expect(clone_tree("/proc"), Step::mount_proc, "/proc");
  expect(attach(own_root, "/home"), Step::mount_root, "root");
  long root = own_root;
  if ((setup.flags & sandbox::kOverlay) != 0) {
    root = expect(overlay_of("/home", "root"), Step::mount_overlay, "isolation.root");
    expect(attach(root, "/run"), Step::mount_root, "overlay");
    sys(SYS_close, own_root);
  }
  expect(sys(SYS_fchdir, root), Step::mount_root, "root");
  const struct {
    long tree;
    const char* target;
    bool required;
  } parts[] = {{dev, "dev", true}, {system, "sys", false}, {proc, "proc", true}};
  for (const auto& part : parts) {
    open_how how{};
    how.flags = O_PATH | O_DIRECTORY | kCloexec;
    how.resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH;  // never trust /proc and /dev of a given root
    const long point = sys(SYS_openat2, kCurrent, part.target, &how, sizeof how);
    if (point < 0 && part.required) {
      fail(Step::mount_root, point, part.target);
    }
    if (point >= 0) {
      expect(sys(SYS_move_mount, part.tree, "", point, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH),
             Step::mount_root, part.target);
      sys(SYS_close, point);
    }
    sys(SYS_close, part.tree);
  }
  pivot_into(root);
}

void mount_devpts() {
  expect(sys(SYS_mount, "devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
             "newinstance,ptmxmode=0666,mode=0620"),
         Step::mount_devpts, "/dev/pts");
}

/// /dev is a read-only tmpfs of the template; to add nodes, this job gets one of its own.
void rebuild_dev() {
  const Option options[] = {{"mode", "0755"}, {"size", "64k"}};
  const long dev =
      expect(new_mount("tmpfs", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC), Step::mount_dev, "tmpfs");
  const long pts = expect(clone_tree("/dev/pts"), Step::mount_dev, "/dev/pts");
  const long shm = expect(clone_tree("/dev/shm"), Step::mount_dev, "/dev/shm");
  constexpr const char* kNodes[] = {"/dev/null",   "/dev/zero",    "/dev/full",
                                    "/dev/random", "/dev/urandom", "/dev/tty"};
  constexpr size_t kNodeCount = sizeof kNodes / sizeof kNodes[0];
  constexpr size_t kPrefix = 5;  // "/dev/"
  long nodes[kNodeCount];
  for (size_t index = 0; index < kNodeCount; ++index) {
    nodes[index] = expect(clone_tree(kNodes[index]), Step::mount_dev, kNodes[index]);
    sys(SYS_close, expect(sys(SYS_openat, dev, kNodes[index] + kPrefix, O_CREAT | O_WRONLY | kCloexec, 0666),
                          Step::mount_dev, kNodes[index]));
  }
  constexpr struct {
    const char* target;
    const char* name;
  } kLinks[] = {{"/proc/self/fd", "fd"},
                {"/proc/self/fd/0", "stdin"},
                {"/proc/self/fd/1", "stdout"},
                {"/proc/self/fd/2", "stderr"},
                {"pts/ptmx", "ptmx"}};
  for (const auto& link : kLinks) {
    expect(sys(SYS_symlinkat, link.target, dev, link.name), Step::mount_dev, link.name);
  }
  expect(sys(SYS_mkdirat, dev, "pts", 0755), Step::mount_dev, "pts");
  expect(sys(SYS_mkdirat, dev, "shm", 0755), Step::mount_dev, "shm");
  expect(attach(dev, "/dev"), Step::mount_dev,
         "/dev");  // first: only an attached mount takes further ones before Linux 6.15
  for (size_t index = 0; index < kNodeCount; ++index) {
    expect(attach(nodes[index], kNodes[index]), Step::mount_dev, kNodes[index]);
    sys(SYS_close, nodes[index]);
  }
  expect(attach(pts, "/dev/pts"), Step::mount_dev, "/dev/pts");
  expect(attach(shm, "/dev/shm"), Step::mount_dev, "/dev/shm");
  sys(SYS_close, dev);
  sys(SYS_close, pts);
  sys(SYS_close, shm);
}

Place mount_job_tmpfs(const ReceivedPlan& received, const PlanMount& mount) {
  char digits[24];
  const char* target = received.text(mount.target);
  const Option options[] = {{"mode", "1777"}, {"size", decimal(static_cast<int64_t>(mount.size), digits)}};
  return place(expect(new_mount("tmpfs", options, kPlainAttributes), Step::mount_tmpfs, target), target,
               Step::mount_tmpfs);
}

long opened_sources[sandbox::kMaximumMounts];
/// None: 0, which is init's standard input. Data without initial values need no page of the file.
long opened_root;

/// The detached mount of one that is no tmpfs.
long tree_of(const ReceivedPlan& received, uint32_t index) {
  const auto& mount = received.array<const PlanMount>(received.plan->mounts)[index];
  return mount.source != 0 ? opened_sources[index] : received.descriptors[mount.descriptor];
}

/// Whether a target's first component is not there. With `make_them` it is made where that can be.
bool has_new_top_level(const ReceivedPlan& received, bool make_them) {
  const auto* mounts = received.array<const PlanMount>(received.plan->mounts);
  for (uint32_t index = 0; index < received.plan->mount_count; ++index) {
    const char* target = received.text(mounts[index].target);
    char top[sandbox::kPathSize];
    size_t size = 1;
    while (target[size] != '\0' && target[size] != '/') {
      ++size;
    }
    copy(top, target, size + 1 < sizeof top ? size + 1 : sizeof top);
    if (exists(top)) {
      continue;
    }
    const bool is_directory_there = target[size] == '/' || mounts[index].kind == sandbox::kMountTmpfs ||
                                    is_directory(tree_of(received, index));
    if (!make_them || make_mount_point(top, is_directory_there) < 0) {
      return true;
    }
  }
  return false;
}

/// What an entry of the directory `root` is, in the terms of getdents64(2).
unsigned char type_of(long root, const DirectoryEntry& entry) {
  struct statx status {};
  if (entry.type == 0 /* DT_UNKNOWN: this file system does not tell */) {
    expect(sys(SYS_statx, root, entry.name, kNoFollow, 0x1 /* STATX_TYPE */, &status), Step::mount_root,
           entry.name);
    return static_cast<unsigned char>((status.stx_mode & 0170000) >> 12);  // IFTODT()
  }
  return entry.type;
}

/// A link is copied; anything else is bound to the same name in `fresh`.
void carry_over(long root, const DirectoryEntry& entry, long fresh) {
  const unsigned char type = type_of(root, entry);
  if (type == 10 /* DT_LNK */) {
    char target[kPathMax];
    target[expect(sys(SYS_readlinkat, root, entry.name, target, sizeof target - 1), Step::mount_root,
                  entry.name)] = '\0';
    expect(sys(SYS_symlinkat, target, fresh, entry.name), Step::mount_root, entry.name);
    return;
  }
  const long tree =
      expect(sys(SYS_open_tree, root, entry.name, kOpenTreeClone | kOpenTreeCloexec | kRecursive | kNoFollow),
             Step::mount_root, entry.name);
  if (type == 4 /* DT_DIR */) {
    expect(sys(SYS_mkdirat, fresh, entry.name, 0755), Step::mount_root, entry.name);
  } else {
    sys(SYS_close, expect(sys(SYS_openat, fresh, entry.name, O_CREAT | O_EXCL | O_WRONLY | kCloexec, 0644),
                          Step::mount_root, entry.name));
  }
  expect(sys(SYS_move_mount, tree, "", fresh, entry.name, MOVE_MOUNT_F_EMPTY_PATH), Step::mount_root,
         entry.name);
  sys(SYS_close, tree);
}

/// The template's "/" is a read-only tmpfs, and an own root may be read-only, so a mount whose first
/// component is not there needs another "/": the same entries on a tmpfs of this job's.
void rebuild_root() {
  const Option options[] = {{"mode", "0755"}, {"size", "1m"}};
  const long fresh = expect(new_mount("tmpfs", options, kPlainAttributes), Step::mount_root, "tmpfs");
  const long root = expect(sys(SYS_openat, kCurrent, "/", O_DIRECTORY | kCloexec, 0), Step::mount_root, "/");
  // Over the old root, which `root` still reaches: only an attached mount takes further ones before
  // Linux 6.15.
  expect(attach(fresh, "/"), Step::mount_root, "/");
  alignas(8) char buffer[4096];
  long size;
  while ((size = sys(SYS_getdents64, root, buffer, sizeof buffer)) > 0) {
    for (long position = 0; position < size;) {
      const auto* entry = reinterpret_cast<const DirectoryEntry*>(buffer + position);
      position += entry->size;
      if (!equal(entry->name, ".") && !equal(entry->name, "..")) {
        carry_over(root, *entry, fresh);
      }
    }
  }
  sys(SYS_close, root);
  pivot_into(fresh);
}

/// Somebody may have changed a link on the way since then.
bool is_what_was_judged(long tree, const PlanMount& mount) {
  struct statx status {};
  return mount.inode == 0 ||
         (sys(SYS_statx, tree, "", kEmptyPath, STATX_INO, &status) == 0 && status.stx_ino == mount.inode &&
          status.stx_dev_major == mount.device_major && status.stx_dev_minor == mount.device_minor);
}

/// Init's own files are not to land in what is another's: a folder of their own in memory goes there first.
void mount_own_folder(const Plan& plan) {
  constexpr int64_t kRounding = int64_t{64} * 1024;  // whole pages
  char digits[24];
  const Option options[] = {{"mode", "0755"}, {"size", decimal(plan.size + kRounding, digits)}};
  place(expect(new_mount("tmpfs", options, kPlainAttributes), Step::mount_tmpfs, kOwnFolder), kOwnFolder,
        Step::mount_tmpfs);
}

/// What rebuild_root() made belongs to the job.
void protect_root() {
  const long root =
      expect(sys(SYS_openat, kCurrent, "/", O_PATH | O_DIRECTORY | kCloexec, 0), Step::mount_root, "/");
  expect(set_attributes(root, MOUNT_ATTR_RDONLY, 0), Step::mount_root, "/");
  sys(SYS_close, root);
}

}  // namespace

void open_sources(const ReceivedPlan& received) {
  const auto* mounts = received.array<const PlanMount>(received.plan->mounts);
  for (uint32_t index = 0; index < received.plan->mount_count; ++index) {
    if (mounts[index].source == 0) {
      continue;
    }
    const char* source = received.text(mounts[index].source);
    const long tree = expect(clone_tree(source, kRecursive), Step::mount_bind, source);
    if (!is_what_was_judged(tree, mounts[index])) {
      fail(Step::mount_bind, kEstale, source);
    }
    const bool device = mounts[index].kind == sandbox::kMountDevice;
    const uint64_t attributes = MOUNT_ATTR_NOSUID | (device ? 0u : unsigned{MOUNT_ATTR_NODEV}) |
                                (mounts[index].read_only != 0 ? unsigned{MOUNT_ATTR_RDONLY} : 0u);
    expect(set_attributes(tree, attributes, kRecursive), Step::mount_bind, source);
    opened_sources[index] = tree;
  }
  if (received.plan->root_source != 0) {
    const char* source = received.text(received.plan->root_source);
    opened_root = expect(clone_tree(source, kRecursive), Step::mount_root, source);
  }
}

void build_root(const Setup& setup, int own_root, const ReceivedPlan* plan) {
  const bool host_view = (setup.flags & sandbox::kHostView) != 0;
  const bool overlay = (setup.flags & sandbox::kOverlay) != 0;
  const bool has_own_root = (setup.flags & sandbox::kOwnRoot) != 0;
  if (host_view) {
    pivot_into_template();
    if (plan != nullptr && opened_root > 0) {
      const uint64_t read_only =
          (setup.flags & sandbox::kOwnRootWritable) != 0 ? 0u : unsigned{MOUNT_ATTR_RDONLY};
      expect(set_attributes(opened_root, kPlainAttributes | read_only, kRecursive), Step::mount_root, "root");
      own_root = static_cast<int>(opened_root);
    }
  }
  long trees[kPrivateCount];
  make_private(trees);
  if (overlay && !has_own_root) {
    overlay_top_level();
  }
  if (has_own_root) {
    enter_own_root(setup, own_root);
  }
  mount_proc();
  mount_devpts();
  attach_private(trees, setup.home, has_own_root);
}

void apply_mounts(const Setup& setup, const ReceivedPlan& received) {
  const Plan& plan = *received.plan;
  const bool overlay = (setup.flags & sandbox::kOverlay) != 0;
  const bool own_root = (setup.flags & sandbox::kOwnRoot) != 0;
  // What the job writes to a root that takes it is not to end in a "/" that goes with it.
  const bool takes_writes = own_root && (overlay || (setup.flags & sandbox::kOwnRootWritable) != 0);
  // "/" itself is under none of the overlays of its folders.
  const bool rebuilt = has_new_top_level(received, takes_writes) || (overlay && !own_root);
  if (rebuilt) {
    rebuild_root();
  }
  const bool has_own_files = plan.script != 0 || plan.hosts != 0;
  if (has_own_files && run_is_foreign) {
    find_real_run();
  }
  bool own_dev = false;
  const auto* mounts = received.array<const PlanMount>(plan.mounts);
  for (uint32_t index = 0; index < plan.mount_count; ++index) {
    const PlanMount& mount = mounts[index];
    const char* target = received.text(mount.target);
    if (mount.kind == sandbox::kMountDevice && !own_dev) {
      rebuild_dev();
      own_dev = true;
    }
    const bool is_tmpfs = mount.kind == sandbox::kMountTmpfs;
    const Place where =
        is_tmpfs ? mount_job_tmpfs(received, mount)
                 : place(tree_of(received, index), target,
                         mount.kind == sandbox::kMountDevice ? Step::mount_device : Step::mount_bind);
    if (has_own_files && where == Place::own_file) {
      fail(is_tmpfs ? Step::mount_tmpfs : Step::mount_bind, kEexist, target);
    }
    if (has_own_files && where == Place::run && !is_tmpfs) {
      mount_own_folder(plan);
    }
  }
  if (has_own_files && run_is_foreign) {
    mount_own_folder(plan);
  }
  if (rebuilt && !overlay) {
    protect_root();
  }
}

void resize_private_tmpfs(uint64_t size) {
  char digits[24];
  const long context = expect(sys(SYS_fspick, kCurrent, "/tmp", FSPICK_CLOEXEC), Step::resize_tmpfs, "/tmp");
  expect(
      sys(SYS_fsconfig, context, FSCONFIG_SET_STRING, "size", decimal(static_cast<int64_t>(size), digits), 0),
      Step::resize_tmpfs, "size");
  expect(sys(SYS_fsconfig, context, FSCONFIG_CMD_RECONFIGURE, 0, 0, 0), Step::resize_tmpfs, "/tmp");
  sys(SYS_close, context);
}

namespace {

/// Below /run/berth, which is made.
void write_private_file(const char* path, const char* text, size_t size, unsigned mode, Step step) {
  const long made = sys(SYS_mkdirat, kCurrent, kOwnFolder, 0755);
  if (made != kEexist) {
    expect(made, step, kOwnFolder);
  }
  const long file =
      expect(sys(SYS_openat, kCurrent, path, O_CREAT | O_EXCL | O_WRONLY | kCloexec, mode), step, path);
  while (size > 0) {
    const long written = expect(sys(SYS_write, file, text, size), step, path);
    text += written;
    size -= static_cast<size_t>(written);
  }
  sys(SYS_close, file);
}

}  // namespace

void write_script(const char* text, size_t size) {
  write_private_file(sandbox::kScriptPath, text, size, 0500, Step::write_script);
}

void mount_network_file(const char* target, const char* name, const char* text) {
  char path[sandbox::kPathSize] = "/run/berth/";
  append(path, name, sizeof path);
  write_private_file(path, text, length(text), 0444, Step::network_file);
  // A link such as systemd-resolved's leads into /run, where the job has nothing: what it leads to is made.
  char link[kPathMax] = {};
  const long size = sys(SYS_readlinkat, kCurrent, target, link, sizeof link - 1);
  char resolved[sizeof "/etc/" + kPathMax] = {};
  if (size > 0 && !exists(target)) {
    copy(resolved, link[0] == '/' ? "" : "/etc/", sizeof resolved);
    append(resolved, link, sizeof resolved);
  } else {
    copy(resolved, target, sizeof resolved);
  }
  place(expect(clone_tree(path), Step::network_file, path), resolved, Step::network_file);
}

}  // namespace berth::init
