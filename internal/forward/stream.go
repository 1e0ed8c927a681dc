package forward

import (
	"errors"
	"io"
	"sync"
)

// bufferBytes is how much is read at most before it is passed on: some records of TLS.
const bufferBytes = 64 << 10

// buffers are those of answers that are over, for others.
type buffers struct{ free sync.Pool }

func (b *buffers) take() *[bufferBytes]byte {
	if buffer, ok := b.free.Get().(*[bufferBytes]byte); ok {
		return buffer
	}
	return new([bufferBytes]byte)
}

func (b *buffers) give(buffer *[bufferBytes]byte) { b.free.Put(buffer) }

// stream passes a body back as it comes: bytes that have arrived do not wait for more.
func (p *passage) stream(from io.Reader) error {
	buffer := p.buffers.take()
	defer p.buffers.give(buffer)
	for {
		n, err := from.Read(buffer[:])
		if n > 0 {
			if err := p.write(buffer[:n]); err != nil {
				return callerError(err)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (p *passage) write(part []byte) error {
	p.watch.moved()
	n, err := p.w.Write(part)
	p.received.Add(int64(n))
	if err != nil {
		return err
	}
	p.watch.moved()
	return p.caller.Flush()
}
