# Completion of Convoy's commands in fish. In ~/.config/fish/config.fish: CLONE/convoy completion fish | source
function __convoy_complete
    set -l words (commandline -opc)
    set -l word (commandline -ct)
    set -l found ($words[1] complete $words[2..] "$word" 2>/dev/null)
    printf '%s\n' $found[2..]
    test "$found[1]" = files; or return
    # Fish drops what does not begin as the word does.
    set -l key (string match -r '^.*=' -- $word)
    printf '%s\n' "$key"(__fish_complete_path (string replace -r '^.*=' '' -- $word))
end
complete -c convoy -f -a '(__convoy_complete)'
