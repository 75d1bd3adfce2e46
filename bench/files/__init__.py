"""The file part: drops in a cache directory, trees and files on mounts, beside plain ext4."""
