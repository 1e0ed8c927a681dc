package writequeue

import (
	"bytes"
	"io"
)

// Lines is a writer of whole lines: after one of which only a part was written, as on a
// full disk, the next begins a line of its own. It is not safe for concurrent use.
type Lines struct {
	to   io.Writer
	torn bool
}

// NewLines returns a writer of lines to w.
func NewLines(w io.Writer) *Lines { return &Lines{to: w} }

// Write writes a line, which ends in a newline.
func (l *Lines) Write(line []byte) (int, error) {
	if l.torn {
		if _, err := l.to.Write([]byte{'\n'}); err != nil {
			return 0, err
		}
		l.torn = false
	}
	n, err := l.to.Write(line)
	l.torn = n > 0 && line[n-1] != '\n'
	return n, err
}

// Writer returns a writer that never waits and never fails: it hands what it is given
// over to the queue, which writes it to w. It is safe for concurrent use.
func (q *Queue) Writer(w io.Writer) io.Writer { return writer{q, w} }

type writer struct {
	queue *Queue
	to    io.Writer
}

func (w writer) Write(line []byte) (int, error) {
	line = bytes.Clone(line)
	_ = w.queue.Post(Job{Write: func() error { // a lost line is counted
		_, err := w.to.Write(line)
		return err
	}})
	return len(line), nil
}
