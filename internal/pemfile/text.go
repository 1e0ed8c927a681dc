package pemfile

import (
	"bytes"
	"encoding/binary"
	"unicode/utf16"
)

// plainText takes the wrapping off a text. Lines stay where they are, so that errors can number
// them.
func plainText(data []byte) []byte {
	data = fromUTF16(data)
	data = bytes.ReplaceAll(data, []byte("\ufeff"), []byte("   ")) // in the middle, too: files are put together with cat
	if !bytes.Contains(data, []byte(dashes+`\`)) {
		return data
	}
	for _, escape := range []string{`\\r`, `\\n`, `\r`, `\n`} { // of a string in JSON, or in JSON within JSON
		data = bytes.ReplaceAll(data, []byte(escape), bytes.Repeat([]byte(" "), len(escape)))
	}
	return data
}

// fromUTF16 makes UTF-8 of UTF-16, which it knows by its byte order mark or by the letters of a PEM
// block. Windows PowerShell writes it.
func fromUTF16(data []byte) []byte {
	var order binary.ByteOrder
	switch {
	case isUTF16(data, binary.LittleEndian):
		order = binary.LittleEndian
	case isUTF16(data, binary.BigEndian):
		order = binary.BigEndian
	default:
		return data
	}
	var units []uint16
	for ; len(data) >= 2; data = data[2:] {
		units = append(units, order.Uint16(data))
	}
	text := []byte(string(utf16.Decode(units)))
	if len(data) > 0 {
		text = append(text, 0) // half a character: refused as what it is
	}
	return text
}

func isUTF16(data []byte, order interface {
	binary.ByteOrder
	binary.AppendByteOrder
}) bool {
	if bytes.Contains(data, []byte(begin)) {
		return false // at most a part is, and the part's zero bytes will be found
	}
	if bytes.HasPrefix(data, order.AppendUint16(nil, 0xfeff)) {
		return true
	}
	var letters []byte
	for _, c := range begin {
		letters = order.AppendUint16(letters, uint16(c)) // #nosec G115 -- ASCII
	}
	i := bytes.Index(data, letters)
	return i >= 0 && i%2 == 0
}
