// Package pemfile reads files of PEM blocks (RFC 7468) that people were given, copied out of
// portals and pasted together. Every file of this kind that the agent reads comes through it:
// certificate authorities to trust, certificates to import, key files.
//
// encoding/pem passes over a block that it cannot read and goes on with the next: of two
// authorities the second would not be trusted, and nobody would know why. Here a file is read as a
// whole or not at all.
//
// What always holds:
//   - Each block is returned, in the order of the file, or the file is refused with the number of
//     the line that cannot be read.
//   - Anything around PEM that cannot change its content is passed over: a byte order mark, UTF-16,
//     carriage returns, indentation, line breaks that are missing or written as \n, text between
//     blocks. RFC 7468, section 3, has the same in its lax grammar.
//   - Text in front of a block on the same line is not passed over: a block that somebody commented
//     out must not count.
//   - A file without PEM is one block if it is DER or base64 of DER. Its [Form] says so, and the
//     caller decides whether to take it.
//   - A software private key is never decoded, and no error repeats a file's content: errors have
//     labels, line numbers and single characters.
//   - Sizes and numbers are limited.
//
// A command that makes a readable file of an unreadable one stands in the error; [Named] puts the
// file's name into it.
package pemfile
