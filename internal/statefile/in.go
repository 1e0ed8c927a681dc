package statefile

import "path/filepath"

// Dir is a directory of the agent, whose files are written and read by their names in it. The
// caller has checked the directory with [EnsureDir]. A Dir is safe for concurrent use; the zero
// value is the working directory.
type Dir struct{ path string }

// In returns the directory at path.
func In(path string) Dir { return Dir{path} }

// Path returns where a file of the directory is, for messages.
func (d Dir) Path(name string) string { return filepath.Join(d.path, name) }

// Write is [Write] for a file of the directory.
func (d Dir) Write(name string, data []byte) error { return Write(d.Path(name), data) }

// Remove is [Remove] for a file of the directory.
func (d Dir) Remove(name string) error { return Remove(d.Path(name)) }

// Load is [Load] for a file of the directory.
func (d Dir) Load(name string, maxBytes int64, decode func(data []byte) error) error {
	return Load(d.Path(name), maxBytes, decode)
}
