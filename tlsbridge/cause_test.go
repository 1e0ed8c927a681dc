package tlsbridge_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/keyagent/keyagent/tlsbridge"
)

// A server that goes away lets the requests under way end. Another connection is made for what came
// later, and whatever becomes of that says nothing about the first: to read it would take its
// bytes, and would wait for as long as nothing comes.
func TestAConnectionThatLivesIsNotAskedWhyAnotherEnded(t *testing.T) {
	config, roots := serverConfig(t)
	config.NextProtos = []string{"h2"}
	underway, release := make(chan struct{}), make(chan struct{})
	var connections atomic.Int64
	address := listen(t, func(conn net.Conn) {
		if connections.Add(1) > 1 {
			_, _ = conn.Read(make([]byte, 1))
			_ = conn.(*net.TCPConn).SetLinger(0)
			return
		}
		goAway(t, tls.Server(conn, config), underway, release)
	})
	pair, _ := newPair(t, "bound")
	b, err := tlsbridge.New(tlsbridge.Config{RootCAs: roots}, pair)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var first sync.WaitGroup
	first.Go(func() {
		if got, err := get(t, b, "https://"+address); err != nil || got != "hello" {
			t.Errorf("the request under way: got %q, %v", got, err)
		}
	})
	<-underway
	if _, err := get(t, b, "https://"+address); err == nil || tlsbridge.CertificateRefused(err) || connections.Load() != 2 {
		t.Errorf("got %v on %d connections, want a reset of the second one", err, connections.Load())
	}
	close(release)
	first.Wait()
}

// goAway is an HTTP/2 server that takes one request, refuses the next, which may be made elsewhere
// (RFC 9113, 6.8), and answers the first one when it is released.
func goAway(t *testing.T, conn net.Conn, underway, release chan struct{}) {
	if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
		t.Error(err)
		return
	}
	framer := http2.NewFramer(conn, conn)
	_ = framer.WriteSettings()
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		headers, ok := frame.(*http2.HeadersFrame)
		switch {
		case !ok:
		case headers.StreamID == 1:
			close(underway)
		default:
			_ = framer.WriteGoAway(1, http2.ErrCodeNo, nil)
			<-release
			var block bytes.Buffer
			_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
			_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
			_ = framer.WriteData(1, true, []byte("hello"))
		}
	}
}
